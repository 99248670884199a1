// Writes vectors in the file formats of other programs.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "experiments/runs/run_file.hpp"

namespace bipo {

struct ExportedVector {
  StoredVector vector;
  double multiplier = 1;
  std::string positions = {};  // where training added it, for a person; empty: at every position
};

// Returns whether a format of `export --format` says at which positions a vector acts.
bool carries_positions(const std::string& format);

// Returns the bytes of a file with each vector times its multiplier, in a format of `export
// --format`; several vectors are of different layers of one model:
//   pt           torch.save of a float32 tensor [D], or of {layer: tensor}, readable with
//                weights_only=True
//   safetensors  a float32 tensor [D] named "vector", with its origin and positions as metadata;
//                for several, "layers.L"
//   gguf         a control vector of llama.cpp: direction.L, added to the output of block L;
//                `model_hint` says which kind of model it is for
//   npy          numpy.save of a float32 array [D]
//   lm-eval      steer_path of lm-evaluation-harness's model `steered`, with the multiplier stored
//                beside the vector
//   vllm-hook    vector_path of a steering configuration of IBM's vLLM-Hook
// Throws UserError for numbers beyond float32, for vectors of one layer or of different sizes, for
// several as `npy` or `vllm-hook`, and for one of layer 0 as `gguf`; BugError for an unknown
// format.
std::vector<std::byte> exported_vectors(const std::vector<ExportedVector>& vectors,
                                        const std::string& format, const std::string& model_hint);

}  // namespace bipo
