// A model as --model names it: a Hugging Face directory or a GGUF file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "trainer/model/config.hpp"
#include "trainer/model/weights.hpp"

namespace bipo {

struct ModelFiles {
  ModelConfig config;
  std::unique_ptr<WeightSource> weights;
  std::uint64_t fingerprint = 0;  // of configuration and weights
};

// Whether `model` is a directory, and else taken for a GGUF file.
bool names_directory(const std::filesystem::path& model);

// `model` is a directory with config.json and safetensors, or else a GGUF file.  Both throw
// UserError for a path that is neither and for files that are refused; see read_model_config,
// open_safetensors, read_gguf_config and open_gguf_weights.  A PEFT directory `adapter`, where one
// is given, is merged into the weights; see merge_lora.
ModelFiles open_model(const std::filesystem::path& model,
                      const std::filesystem::path& adapter = {});
ModelConfig read_config(const std::filesystem::path& model);

}  // namespace bipo
