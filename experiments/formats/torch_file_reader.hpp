// Reads the vectors in an untrusted file that torch.save wrote, and runs no code.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "experiments/formats/named_tensor.hpp"

namespace bipo {

// Returns whether the file begins as those of torch.save do: zip archives since torch 1.6, pickles
// before.
bool is_torch_file(std::span<const std::byte> bytes);

// Returns the tensors, [D] or [R, D], of float32, float64, float16, bfloat16, float8_e4m3fn or
// float8_e5m2 in a file of either form, as float32; `name` names the file in messages.  The file
// holds one tensor or nn.Parameter, or a dictionary:
//   {layer: vector}      with numbers or names of blocks (as read_layer_name() reads them) as keys
//   {"...": {layer: vector}, ...}    the same below one key, and no other tensor
//   {"...": tensor, "layer": L}      one tensor; the layer may be missing
//   {"layers.L": {"steering_vector": v, "steering_coefficient": m, "action": "add", ...}}
//                        of lm-evaluation-harness; the values are m times v
// Throws UserError as read_pickle() and read_stored_zip() do, for anything else, for numbers
// outside a tensor's storage, and for more numbers than the file has bytes.
std::vector<NamedTensor> read_torch_tensors(std::span<const std::byte> bytes,
                                            const std::string& name);

}  // namespace bipo
