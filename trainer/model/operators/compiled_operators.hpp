// The operators that are one kernel of our own each (device_kernels.cuh), on tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>

#include "trainer/model/architecture/config.hpp"

namespace bipo {

// T rows.  Results are contiguous.  All tensors of a call have one type, float32, bfloat16 or
// float64, and lie on one device, for which runs_compiled() is true.

// Whether the device of `x` has these kernels, and they are chosen (choose_kernels()).
bool runs_compiled(const at::Tensor& x);

// residual + factor norm(x + shift), where norm is RMSNorm, or LayerNorm where it is `centred`.
// shift, bias and residual may be undefined.
struct CompiledNorm {
  at::Tensor weight;
  at::Tensor bias = {};
  at::Tensor shift = {};
  at::Tensor residual = {};
  double epsilon = 0;
  double factor = 1;
  bool centred = false;
};

// What a norm returns, and its backward pass needs.
struct Normed {
  at::Tensor y = {};      // [T, D]
  at::Tensor mean = {};   // [T, 1], float32 or float64; undefined unless the norm is centred
  at::Tensor scale = {};  // [T, 1]
};
Normed compiled_norm(const at::Tensor& x, const CompiledNorm& norm);

// The gradient by x, from that of y.  Residual, bias and epsilon are not used.
at::Tensor compiled_norm_backward(const at::Tensor& x, const CompiledNorm& norm,
                                  const Normed& normed, const at::Tensor& gradient);

// residual + factor (x + shift).
at::Tensor compiled_add_onto(const at::Tensor& residual, const at::Tensor& x,
                             const at::Tensor& shift, double factor);

// activation(gate) * up for gate_up [T, 2 I], and its gradient.
at::Tensor compiled_gated_unit(const at::Tensor& gate_up, Activation activation);
at::Tensor compiled_gated_unit_backward(const at::Tensor& gate_up, const at::Tensor& gradient,
                                        Activation activation);

// activation(x + shift), and its gradient.
at::Tensor compiled_plain_unit(const at::Tensor& x, const at::Tensor& shift, Activation activation);
at::Tensor compiled_plain_unit_backward(const at::Tensor& x, const at::Tensor& shift,
                                        const at::Tensor& gradient, Activation activation);

// How many heads of each kind a row has, in this order.
struct HeadCounts {
  std::int64_t queries = 0;
  std::int64_t keys = 0;
  std::int64_t values = 0;

  std::array<std::int64_t, 3> all() const { return {queries, keys, values}; }
  std::int64_t sum() const { return queries + keys + values; }
};

// Splits x [T, heads K], which may be columns of a wider matrix, into queries, keys and values [T,
// heads of the kind, K]; turns queries and keys by cos and sin [T, 1, K] (PaddedSpans).
std::array<at::Tensor, 3> compiled_turn(const at::Tensor& x, const HeadCounts& heads,
                                        const at::Tensor& cos, const at::Tensor& sin);

// The gradient by x [T, heads K], from those of the three; an undefined one is 0.
at::Tensor compiled_turn_back(const std::array<at::Tensor, 3>& gradients, const HeadCounts& heads,
                              const at::Tensor& cos, const at::Tensor& sin);

}  // namespace bipo
