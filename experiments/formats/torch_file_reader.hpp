// Reads the vector in an untrusted file that torch.save wrote, and runs no code.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace bipo {

// Returns whether the file begins as those of torch.save do: zip archives since torch 1.6, pickles
// before.
bool is_torch_file(std::span<const std::byte> bytes);

// Returns the one tensor or nn.Parameter, [D] or [1, D], of float32, float64, float16 or bfloat16
// in a file of either form, as float32 [D]; `name` names the file in messages.  Throws UserError as
// read_pickle() and read_stored_zip() do, for anything else than one such tensor, and for numbers
// outside the tensor's storage.
std::vector<float> read_torch_vector(std::span<const std::byte> bytes, const std::string& name);

}  // namespace bipo
