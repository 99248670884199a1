// A vector in the file formats of other programs.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "experiments/runs/run_file.hpp"

namespace bipo {

// The bytes of a file that holds `multiplier` times the vector, in the format that `export
// --format` calls:
//   pt           torch.save of a float32 tensor [D]
//   safetensors  a float32 tensor [D] named "vector", with what it is as metadata
//   gguf         a control vector of llama.cpp: direction.L, added to the output of block L
//   npy          numpy.save of a float32 array [D]
//   lm-eval      what lm-evaluation-harness's model `steered` takes as steer_path; it holds the
//                multiplier beside the vector
// Throws UserError for numbers that float32 cannot hold, and for a vector of layer 0 as `gguf`;
// BugError for an unknown format.
std::vector<std::byte> exported_vector(const StoredVector& vector, double multiplier,
                                       const std::string& format);

}  // namespace bipo
