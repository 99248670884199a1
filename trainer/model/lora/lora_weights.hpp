// A model's weights with a PEFT adapter's low-rank updates added to them, slice by slice.
#pragma once

#include <filesystem>
#include <memory>

#include "trainer/model/architecture/config.hpp"
#include "trainer/model/weights/weights.hpp"

namespace bipo {

// Merges the adapter of `directory` (adapter_config.json and adapter_model.safetensors) into
// `base`, the weights of the model at `model` (named in messages).  `read` returns what PEFT's
// merge_and_unload makes of a float32 model: W + scale * B A, with DoRA rescaled to the adapter's
// magnitudes, for biases b + scale * the bias of B, all in float32, or in float64 if W is stored
// so.  Nothing is rounded to W's stored type.  Reads A and B for the slice alone; norms of DoRA are
// those of whole rows, which are read in parts where a rank holds some of their columns.  Ignores
// the adapter's own name for its base model: shapes must fit, and the tensors must be exactly those
// that the adapter's configuration implies; see LoraConfig and read_lora_tensors for what is
// refused.  Throws UserError.
std::unique_ptr<WeightSource> merge_lora(const std::filesystem::path& directory,
                                         std::unique_ptr<WeightSource> base,
                                         const ModelConfig& config,
                                         const std::filesystem::path& model);

}  // namespace bipo
