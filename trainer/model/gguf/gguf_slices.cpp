#include "trainer/model/gguf/gguf_slices.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>

namespace bipo {
namespace {

at::ScalarType type_of(const BlockFormat& format) {
  switch (format.type) {
    case GgmlType::kF16:
      return at::kHalf;
    case GgmlType::kBF16:
      return at::kBFloat16;
    case GgmlType::kF64:
      return at::kDouble;
    default:
      return at::kFloat;
  }
}

// Copies elements of the row that begins at `row`.
void copy_elements(const BlockFormat& format, const std::byte* row, Range elements,
                   std::byte* target) {
  if (format.elements == 1) {
    std::memcpy(target, row + elements.begin * format.bytes,
                static_cast<std::size_t>(elements.size() * format.bytes));
  } else {
    dequantize(format, row, elements, reinterpret_cast<float*>(target));
  }
}

at::Tensor read_vector(const GgufTensor& tensor, Range rows, const RowInFile& row) {
  const at::Tensor result =
      at::empty({rows.size()}, at::TensorOptions().dtype(type_of(tensor.format)));
  auto* target = static_cast<std::byte*>(result.data_ptr());
  for (std::int64_t i = rows.begin; i < rows.end; ++i) {
    const std::int64_t place = row(i);
    copy_elements(tensor.format, tensor.data.data(), {place, place + 1}, target);
    target += result.element_size();
  }
  return result;
}

}  // namespace

at::Tensor read_gguf_slice(const GgufTensor& tensor, const Slice& slice, const RowInFile& row) {
  if (tensor.shape.size() == 1) {
    return read_vector(tensor, slice.rows, row);
  }
  const BlockFormat& format = tensor.format;
  const at::Tensor result = at::empty({slice.rows.size(), slice.columns.size()},
                                      at::TensorOptions().dtype(type_of(format)));
  const std::int64_t row_bytes = tensor.shape[1] / format.elements * format.bytes;
  const std::int64_t result_row_bytes = slice.columns.size() * result.element_size();
  auto* target = static_cast<std::byte*>(result.data_ptr());
  constexpr std::int64_t kElementsPerTask = 32768;
  const std::int64_t grain =
      std::max<std::int64_t>(1, kElementsPerTask / std::max<std::int64_t>(1, slice.columns.size()));
  at::parallel_for(0, slice.rows.size(), grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      copy_elements(format, tensor.data.data() + row(slice.rows.begin + i) * row_bytes,
                    slice.columns, target + i * result_row_bytes);
    }
  });
  return result;
}

}  // namespace bipo
