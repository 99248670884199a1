// The decoder's operators with frozen weights: their backward passes yield the gradient of the
// activations only, and keep nothing that only a weight gradient would need.
#pragma once

#include <ATen/core/Tensor.h>

namespace bipo {

// T tokens, D hidden, H heads, K head size, I MLP columns.  Activations are in the residual
// stream's type (float32; float64 in double-precision models) on both sides of every operator.

// y = x W^T for x [T, in], weight [out, in].  The product is computed in the weight's type.
at::Tensor frozen_linear(const at::Tensor& x, const at::Tensor& weight);

// x / sqrt(mean(x^2) + epsilon) * weight over the last dimension (Zhang and Sennrich, arXiv
// 1910.07467, equation 4).
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon);

// Rotary position embedding of x [T, H, K], rotating (x_i, x_{i+K/2}) (Su et al., arXiv 2104.09864,
// section 3.2, in the half-split order of Hugging Face checkpoints).  cos, sin: [T, 1, K].
at::Tensor rotary(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin);

// silu(gate) * up for gate_up [T, 2 I], gate first (Shazeer, arXiv 2002.05202, equation 6).
at::Tensor swiglu(const at::Tensor& gate_up);

}  // namespace bipo
