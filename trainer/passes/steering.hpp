// The steering site: where vectors enter the residual stream.
#pragma once

#include <ATen/core/Tensor.h>

namespace bipo {

// h + C^T V for the residual stream h [T, D] at the steered block's output, vectors V [M, D] and
// their coefficients C [M, T] at every row (d in training, the multiplier in use; 0 where a row is
// steered by another vector); all of h's type.  The only gradient is V's: dL/dv_m = sum over rows
// of c_mt dL/dh_t (Cao et al., arXiv 2406.00045, equation 2 with A_L(x) + d v).
at::Tensor steer(const at::Tensor& h, const at::Tensor& coefficients, const at::Tensor& vectors);

}  // namespace bipo
