// Writes a vector in the file formats of other programs.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "experiments/runs/run_file.hpp"

namespace bipo {

// Returns the bytes of a file with `multiplier` times the vector, in a format of `export --format`:
//   pt           torch.save of a float32 tensor [D], readable with weights_only=True
//   safetensors  a float32 tensor [D] named "vector", with its origin as metadata
//   gguf         a control vector of llama.cpp: direction.L, added to the output of block L
//   npy          numpy.save of a float32 array [D]
//   lm-eval      steer_path of lm-evaluation-harness's model `steered`, with the multiplier stored
//                beside the vector
// Throws UserError for numbers beyond float32 and for a vector of layer 0 as `gguf`, BugError for
// an unknown format.
std::vector<std::byte> exported_vector(const StoredVector& vector, double multiplier,
                                       const std::string& format);

}  // namespace bipo
