// The steering site: where the vector enters the residual stream.
#pragma once

#include <ATen/core/Tensor.h>

namespace bipo {

// h + c v^T for the residual stream h [T, D] at the steered block's output, one coefficient c [T]
// per row (d in training, the multiplier in use) and the vector v [D]; all of h's type.  The only
// gradient is v's: dL/dv = sum over rows of c_t dL/dh_t (Cao et al., arXiv 2406.00045, equation 2
// with A_L(x) + d v).
at::Tensor steer(const at::Tensor& h, const at::Tensor& coefficients, const at::Tensor& vector);

}  // namespace bipo
