// Reads parts of the tensors of GGUF files.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "trainer/model/gguf/gguf_file.hpp"
#include "trainer/model/sharding/sharding.hpp"

namespace bipo {

// Returns the number of a row in the file from its number in the role that the tensor plays.
using RowInFile = std::function<std::int64_t(std::int64_t row)>;

// Reads [rows, columns] of a matrix, and [rows] of a vector, whose elements are its rows.  The
// result is in CPU memory, in the stored type, and in float32 if the tensor is quantised.  `slice`
// must lie within the tensor.  Several threads decode a matrix.
at::Tensor read_gguf_slice(const GgufTensor& tensor, const Slice& slice, const RowInFile& row);

}  // namespace bipo
