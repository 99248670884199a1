// Products with frozen weights on a CPU: float32 or bfloat16 in, float32 out.
//
// The weight stays as it is, row-major; what a product needs in another order is packed as it goes:
// of x W^T the rows of x (once for each product), of g W the columns of W (once for all rows of g).
// So one copy of the weights serves both directions, and packing costs little where there are more
// than a few rows.  The tiles are computed by libtorch's batch-reduce product (oneDNN's brgemm),
// which accumulates in float32 and has versions for AVX-512, its bfloat16 instructions, and AMX.
//
// A row of a result depends on its own row only, never on how many others are computed with it.
#pragma once

#include <ATen/core/Tensor.h>

namespace bipo {

// Whether this processor multiplies tiles of `type`: float32 needs AVX-512, bfloat16 its bfloat16
// instructions or AMX too.  The answer does not change while the process lives.
bool multiplies_tiles(at::ScalarType type);

// Whether the products of a model in `product_type` on `device` are computed in tiles.
bool multiplies_in_tiles(at::ScalarType product_type, at::Device device);

// Whether the functions below take `weight`: on the CPU, rows without gaps, float32 or bfloat16
// (with an even number of columns) that this processor multiplies in tiles.
bool is_tiled_weight(const at::Tensor& weight);

// Whether they take x and `weight`.
inline bool runs_in_tiles(const at::Tensor& x, const at::Tensor& weight) {
  return x.scalar_type() == at::kFloat && is_tiled_weight(weight);
}

// Returns residual + x W^T [T, out] for x [T, in] float32, rounded to the weight's type, and
// `residual` [T, out] float32 (undefined: zero).
at::Tensor tiled_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& residual);

// Adds g W to `sum` [T, in] float32, contiguous, or overwrites it, for g [T, out] float32, rounded
// to the weight's type.
void add_tiled_product(const at::Tensor& g, const at::Tensor& weight, const at::Tensor& sum,
                       bool overwrite);

}  // namespace bipo
