// Flash attention over sequences of different lengths by straightforward loops in float64, with the
// interface of libtorch's operators and their roundings: operands of products are bfloat16.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <tuple>

namespace bipo::testing {

// What both passes take: q [n, H, K], k and v [m, Hkv, K] in bfloat16, H a multiple of Hkv; the
// bounds [S + 1] int32 of each sequence's queries and keys.  The last query of a sequence sees its
// last key, earlier ones as many less; of these, the last window_left + 1, if that is not negative.
struct FlashOperands {
  at::Tensor q;
  at::Tensor k;
  at::Tensor v;
  at::Tensor query_bounds;
  at::Tensor key_bounds;
  double scale = 1;
  std::int64_t window_left = -1;
};

// Returns the result [n, H, K] in bfloat16, and the logarithms of the softmax's sums [H, n].
std::tuple<at::Tensor, at::Tensor> flash_forward(const FlashOperands& x);

// Returns the gradients of q, k and v, in bfloat16, from that of the result.
std::tuple<at::Tensor, at::Tensor, at::Tensor> flash_backward(const FlashOperands& x,
                                                              const at::Tensor& result,
                                                              const at::Tensor& log_sums,
                                                              const at::Tensor& d_result);

}  // namespace bipo::testing
