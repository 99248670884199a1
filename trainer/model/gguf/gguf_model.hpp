// The parts of a model in a GGUF file: configuration, weights and text.
#pragma once

#include <filesystem>
#include <memory>

#include "datasets/tokens/model_text.hpp"
#include "trainer/model/architecture/config.hpp"
#include "trainer/model/gguf/gguf_file.hpp"
#include "trainer/model/weights/weights.hpp"

namespace bipo {

// Reads the sizes from the metadata, and from the tensors the vocabulary and whether the head is
// tied. Throws UserError for missing or malformed keys, and for every key of the architecture that
// this program does not know or whose value it does not implement: any of them may change the
// mathematics.
ModelConfig read_gguf_config(const GgufFile& file);

// Opens the weights, whose slices are float16, bfloat16 or float32 as stored, and float32 of
// quantised tensors.  Throws UserError unless the file's tensors are those that the configuration
// implies, all of them in the implied shapes, and no others: an unknown bias or factor would change
// what the model computes.
std::unique_ptr<WeightSource> open_gguf_weights(std::shared_ptr<const GgufFile> file,
                                                const ModelConfig& config);

// Merges the LoRA adapter of a GGUF file (general.type adapter) into `base`, the weights of a
// directory or of a GGUF file.  If a weight W has an update, `read` returns W + scale * B A in
// float32, or in float64 if W is stored so, with llama.cpp's scale alpha / rank.  Throws UserError
// for a file of another kind, an adapter for another architecture, tensors that do not fit the
// model, an update of an embedding, or of a head that is the embedding, and adapters that take
// effect from certain tokens on.
std::unique_ptr<WeightSource> merge_gguf_lora(const std::filesystem::path& file,
                                              std::unique_ptr<WeightSource> base,
                                              const ModelConfig& config);

// Reads tokenizer, special tokens and chat template from the keys tokenizer.ggml.* and
// tokenizer.chat_template.  Throws UserError, naming file and key, for what is missing, malformed
// or not implemented: nothing that changes tokens is ignored.
ModelText read_gguf_text(const GgufFile& file);

}  // namespace bipo
