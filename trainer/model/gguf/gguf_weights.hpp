// A model's weights from a GGUF file, dequantised slice by slice.
#pragma once

#include <memory>

#include "trainer/model/architecture/config.hpp"
#include "trainer/model/gguf/gguf_file.hpp"
#include "trainer/model/weights/weights.hpp"

namespace bipo {

// What `read` returns is float16, bfloat16 or float32 as stored, and float32 of quantised tensors.
// Throws UserError unless the file's tensors are those that the configuration asks for, all of
// them in the shapes that follow from it, and no others: a bias or a factor that this program does
// not know changes what the model computes.
std::unique_ptr<WeightSource> open_gguf_weights(std::shared_ptr<const GgufFile> file,
                                                const ModelConfig& config);

}  // namespace bipo
