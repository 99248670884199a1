// The gated delta net on devices with our own kernels: from the product of its input weight to what
// its output weight takes, as a few kernels forward and backward, whatever the sequences are.
#pragma once

#include <ATen/core/Tensor.h>

#include "trainer/model/recurrence/delta_rule.hpp"

namespace bipo {

// T rows, C columns of the convolution, Hv heads of values of size V (see delta_rule.hpp).

// This rank's weights, and how its kernels write.
struct DeviceDeltaNet {
  SharedDeltaHeads heads;
  SharedRecurrence layout;  // with CompiledChunks
  at::Tensor taps;          // [W, C]
  at::Tensor decay_bias;    // [Hv]
  at::Tensor decay;         // [Hv], the factor of softplus
  at::Tensor norm;          // [V]
  double epsilon = 0;       // the norm's
  bool narrow = false;      // results and the gradients of the inputs are bfloat16
};

// Returns silu(gate) RMSNorm(rule) of every head and row, [T, Hv V], where the rule is that of
// gated_delta_rule() over short_convolution(), with decays decay softplus(a + decay_bias) and steps
// sigmoid(b): projected [T, C + 2 Hv + Hv V] holds the convolution's columns, b, a and the gates.
at::Tensor device_delta_net(const at::Tensor& projected, const DeviceDeltaNet& net);

// The same of the rows `rows` [U] int64, each at most once, whose gates are gates [U, Hv V] instead
// of columns of projected [T, C + 2 Hv] -> [U, Hv V].
at::Tensor device_delta_net(const at::Tensor& projected, const at::Tensor& gates,
                            const at::Tensor& rows, const DeviceDeltaNet& net);

}  // namespace bipo
