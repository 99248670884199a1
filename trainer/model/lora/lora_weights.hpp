// A model's weights with a PEFT adapter's low-rank updates added to them, slice by slice.
#pragma once

#include <filesystem>
#include <memory>

#include "trainer/model/architecture/config.hpp"
#include "trainer/model/weights/weights.hpp"

namespace bipo {

// Merges the adapter of `directory` (adapter_config.json and adapter_model.safetensors) into
// `base`: if a weight W has an update, `read` returns W + scale * B A in float32, or in float64 if
// W is stored so, the same sum as PEFT's merge_and_unload of a float32 model.  Nothing is rounded
// to W's stored type.  Reads A and B for the slice alone.  Ignores the adapter's own name for its
// base model: shapes must fit, and the tensors must be exactly those that the adapter's
// configuration lists. Refuses an update of an embedding, or of a head that is the embedding.
// Throws UserError.
std::unique_ptr<WeightSource> merge_lora(const std::filesystem::path& directory,
                                         std::unique_ptr<WeightSource> base,
                                         const ModelConfig& config);

}  // namespace bipo
