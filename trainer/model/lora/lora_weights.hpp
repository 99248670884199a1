// A model's weights with a PEFT adapter's low-rank updates added to them, slice by slice.
#pragma once

#include <filesystem>
#include <memory>

#include "trainer/model/architecture/config.hpp"
#include "trainer/model/weights/weights.hpp"

namespace bipo {

// `base` with the adapter of `directory` (adapter_config.json and adapter_model.safetensors)
// merged: where a weight W has an update, `read` returns W + scale * B A in float32, or in float64
// where W is stored so, the sum that PEFT's merge_and_unload makes of a model in float32.  Nothing
// is rounded to W's stored type.  A and B are read for the slice alone.  The adapter's own name for
// its base model is not looked at: shapes must fit, and the tensors must be those that the
// adapter's configuration lists, no fewer, no others.  An update of an embedding, or of a head that
// is the embedding, is refused.  Throws UserError.
std::unique_ptr<WeightSource> merge_lora(const std::filesystem::path& directory,
                                         std::unique_ptr<WeightSource> base,
                                         const ModelConfig& config);

}  // namespace bipo
