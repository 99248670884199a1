// The gated delta rule and its convolution in float32 on the CPU; see delta_rule.hpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "trainer/model/operators/sequence_layout.hpp"
#include "trainer/model/recurrence/delta_rule.hpp"

namespace bipo {

// The backward pass needs this; it computes what happens inside a chunk again.
struct DeltaMemory {
  at::Tensor result;       // [T, Hv V]
  at::Tensor corrections;  // [Hv, T, V] what each row adds to the state under its key
  at::Tensor states;       // [Hv, S, K, V] with which chunks begin
};

DeltaMemory run_delta_rule(const DeltaOperands& operands, const DeltaHeads& heads,
                           const RecurrentLayout& layout);

// Returns the gradients of the operands, from d_result [T, Hv V].
DeltaOperands delta_rule_backward(const DeltaOperands& operands, const DeltaMemory& memory,
                                  const at::Tensor& d_result, const DeltaHeads& heads,
                                  const RecurrentLayout& layout);

// Rows that continue from one state, row by row.
struct SteppedPart {
  Range rows;
  float* state = nullptr;  // [Hv, K, V], updated
};

// Returns the result [n, Hv V] of the rows of all parts.
at::Tensor step_through(const DeltaOperands& operands, const DeltaHeads& heads,
                        const std::vector<SteppedPart>& parts);

// See cached_rates().
DeltaRates rates_by_row(const at::Tensor& x, const at::Tensor& y, const at::Tensor& bias,
                        const at::Tensor& scale);

// Returns the convolution [n, C] of x [m, C] by weight [W, C].
at::Tensor convolve(const at::Tensor& x, const at::Tensor& weight, const TapRows& taps);

// Returns dx of the above, from d_out [n, C].
at::Tensor convolve_backward(const at::Tensor& x, const at::Tensor& weight, const TapRows& taps,
                             const at::Tensor& d_out);

}  // namespace bipo
