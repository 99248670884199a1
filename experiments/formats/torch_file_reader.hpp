// Reads the vector of a file that torch.save wrote, from files that are not trusted; runs nothing.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace bipo {

// D: the vector's length.

// Whether the file begins as those of torch.save do: zip archives since torch 1.6, pickles before.
bool is_torch_file(std::span<const std::byte> bytes);

// The one tensor [D] or [1, D], or nn.Parameter of this shape, of float32, float64, float16 or
// bfloat16, from a file of either form, as float32 [D]; `name` stands for the file in messages.
// Throws UserError as read_pickle() and read_stored_zip() do, for anything else than one such
// tensor, and for numbers that do not lie where the tensor says.
std::vector<float> read_torch_vector(std::span<const std::byte> bytes, const std::string& name);

}  // namespace bipo
