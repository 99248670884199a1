// The one door to a model's files: configuration, weights and text of a Hugging Face directory or a
// GGUF file, as --model names it, also by its name in the local Hugging Face cache.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "trainer/model/architecture/config.hpp"
#include "trainer/model/weights/weights.hpp"

namespace bipo {

class GgufFile;
struct ModelText;  // datasets/tokens/model_text.hpp

struct ModelFiles {
  ModelConfig config;
  std::unique_ptr<WeightSource> weights;
  std::uint64_t fingerprint = 0;         // covers configuration and samples of the weights
  std::filesystem::path path;            // the directory or GGUF file
  std::filesystem::path adapter;         // merged into the weights; empty: none
  std::vector<std::string> notes;        // which snapshot of a cache it is, what lies beside it
  std::shared_ptr<const GgufFile> gguf;  // null for a directory

  // Lists what is odd about configuration and weights, one line each.
  std::vector<std::string> warnings() const;

  // Reads tokenizer, special tokens and chat template.  Throws UserError.
  ModelText read_text() const;
};

// These take a path or a model's name in the local Hugging Face cache; see find_model.  They throw
// UserError for what is neither, and for files that are refused; see read_model_config,
// open_safetensors, read_gguf_config, open_gguf_weights, read_model_text and read_gguf_text.

// Opens config.json and safetensors of a directory, or a GGUF file.  Merges `adapter` into the
// weights if one is given: a PEFT directory or a GGUF file; see merge_lora and merge_gguf_lora.
ModelFiles open_model(const std::filesystem::path& model,
                      const std::filesystem::path& adapter = {});

// Read one part only, for commands that need no weights.
ModelConfig read_config(const std::filesystem::path& model);
ModelText read_text(const std::filesystem::path& model);

}  // namespace bipo
