// The decoder's operators with frozen weights: their backward passes compute the gradient of the
// activations only, and keep nothing that only a weight gradient would need.
#pragma once

#include <ATen/core/Tensor.h>

#include "trainer/model/architecture/config.hpp"

namespace bipo {

// T tokens, D hidden, I MLP columns.  Activations have the residual stream's type on both sides of
// every operator.  In float32 on the CPU each operator runs as one pass over memory; on a device
// with kernels of our own (compiled_operators.hpp) it is one of them; elsewhere it is composed of
// tensor operations.

// Returns the type of the residual stream of a model whose products have `product_type`.
inline at::ScalarType residual_type_for(at::ScalarType product_type) {
  return product_type == at::kDouble ? at::kDouble : at::kFloat;
}

// The weight [out, in] of a product.  The product is computed in the weight's type, except where
// the processor has no bfloat16 instructions: there the weight holds bfloat16 values as float32,
// and the other operand is rounded to bfloat16 too, so that the numbers are those of a bfloat16
// product with a float32 accumulator, at the speed of float32.
struct FrozenWeight {
  at::Tensor matrix;
  bool rounds_inputs = false;
};

// Returns `matrix` as the weight of products in `type` on `device`.
FrozenWeight make_frozen_weight(const at::Tensor& matrix, at::ScalarType type, at::Device device);

// Whether products in bfloat16 are computed in float32 (see FrozenWeight).
bool emulates_bfloat16(at::Device device);

// Whether a bfloat16 model keeps its head in float32: log-softmax needs logits better than
// bfloat16, and a CPU without bfloat16 tiles has no other product that yields them.
bool keeps_float_head(at::Device device);

// Returns x W^T for x [T, in]; float32 where x is bfloat16, the weight's type, on a device.
at::Tensor frozen_linear(const at::Tensor& x, const FrozenWeight& weight);

// Returns residual + x W^T for residual [T, out].
at::Tensor frozen_linear_onto(const at::Tensor& residual, const at::Tensor& x,
                              const FrozenWeight& weight);

// The results of the operators with a parameter `narrow` may be bfloat16, because only a product in
// it takes them; their gradients stay in x's type.  Only for x with runs_compiled().

// x / sqrt(mean(x^2) + epsilon) * weight over the last dimension of x [T, D] (Zhang and Sennrich,
// arXiv 1910.07467, equation 4).
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon,
                    bool narrow = false);

// (x - mean(x)) / sqrt(variance(x) + epsilon) * weight + bias over the last dimension of x [T, D]
// (Ba et al., arXiv 1607.06450, equation 3); bias may be undefined.
at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                      double epsilon, bool narrow = false);

// What a block's branch adds to the residual stream: factor RMSNorm(x + bias).
struct AddedBranch {
  at::Tensor bias;  // [D]; undefined: 0
  at::Tensor norm;  // the norm's weight [D]; undefined: no norm
  double epsilon = 0;
  double factor = 1;
};

// Returns residual + factor norm(x + bias) for residual and x [T, D].
at::Tensor add_onto(const at::Tensor& residual, const at::Tensor& x, const AddedBranch& branch);

// activation(gate) * up for gate_up [T, 2 I], gate first (Shazeer, arXiv 2002.05202, equation 6).
at::Tensor gated_unit(const at::Tensor& gate_up, Activation activation, bool narrow = false);

// activation(x + bias) for x [T, I]; bias [I] may be undefined.
at::Tensor plain_unit(const at::Tensor& x, const at::Tensor& bias, Activation activation,
                      bool narrow = false);

// Lets the backward pass hand a gradient of any type to `x`, a result of a function of ours: on a
// device bfloat16 operands of products have float32 gradients, and the other way around.  libtorch
// would convert it, a kernel and a rounding more.
void accept_any_gradient(const at::Tensor& x);

// Returns sigmoid(gate) x for x and gate [T, C].  Each row by itself: in float32 on the CPU it has
// the same bits whatever is computed with it.  No gradient.
at::Tensor gated_row_by_row(const at::Tensor& x, const at::Tensor& gate);

// Whether the one-pass float32 loops for the CPU can process `x`.
bool runs_fused(const at::Tensor& x);

}  // namespace bipo
