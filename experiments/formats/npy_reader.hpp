// Reads the vector in an untrusted file that numpy.save wrote.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "experiments/formats/named_tensor.hpp"

namespace bipo {

bool is_npy(std::span<const std::byte> bytes);

// Returns the array [D] or [R, D] of float32, float64 or float16 in a file of version 1 to 3;
// `name` names the file in messages.  Throws UserError for other types (such as Python objects,
// which are a pickle) and shapes, big-endian numbers, and a file that does not end with its last
// number.
NamedTensor read_npy(std::span<const std::byte> bytes, const std::string& name);

}  // namespace bipo
