// The gated delta rule (Yang et al., arXiv 2412.06464): a recurrence that writes values under keys
// into a state and reads them by queries; and the short convolution before it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "trainer/model/operators/sequence_layout.hpp"
#include "trainer/model/sharding/sharding.hpp"

namespace bipo {

// T rows; Hk heads of queries and keys of size K, Hv heads of values of size V, each of which uses
// one of the former; W taps of the convolution, over C columns.

// The heads of this rank.
struct DeltaHeads {
  std::int64_t key_size = 0;                    // K
  std::int64_t value_size = 0;                  // V
  std::int64_t key_heads = 0;                   // Hk
  std::vector<std::int64_t> key_head_of_value;  // [Hv], does not decrease
  at::Tensor key_head_table = {};               // the same on the device
  at::Tensor first_value_table = {};  // [Hk + 1]: where the value heads of each key head begin

  std::int64_t value_heads() const { return static_cast<std::int64_t>(key_head_of_value.size()); }
  std::int64_t key_columns() const { return key_heads * key_size; }
  std::int64_t value_columns() const { return value_heads() * value_size; }
  std::int64_t columns() const { return 2 * key_columns() + value_columns(); }  // C
};

// Sets the last two.
void set_head_tables(DeltaHeads& heads, at::Device device);

// Shared, because the autograd graph keeps them until its backward pass has run.
using SharedDeltaHeads = std::shared_ptr<const DeltaHeads>;
using SharedRecurrence = std::shared_ptr<const RecurrentLayout>;

// Returns silu(sum over taps of weight[tap] x[row that the tap sees]) for every row of
// `layout->taps`, [n, C], from x [m, C], which may be columns of a wider
// matrix, and weight [W, C].
at::Tensor short_convolution(const at::Tensor& x, const at::Tensor& weight,
                             const SharedRecurrence& layout);

// Operands of the recurrence: `mixed` [T, C] holds queries, keys and values side by side, `decays`
// [T, Hv] logarithms, at most 0, `steps` [T, Hv] numbers between 0 and 1.
struct DeltaOperands {
  at::Tensor mixed;
  at::Tensor decays;
  at::Tensor steps;
};

// Returns S_t^T q_t / sqrt(K) of every row and value head, [T, Hv V], with S_t = exp(g_t) S + b_t
// k_t (v_t - exp(g_t) S^T k_t)^T, S the state [K, V] after the row before in its sequence, g the
// decays, b the steps, q and k of length 1 (x / sqrt(|x|^2 + 1e-6)).  Computed chunk by chunk, in
// products of matrices (the paper's section 3.3).
at::Tensor gated_delta_rule(const DeltaOperands& operands, const SharedDeltaHeads& heads,
                            const SharedRecurrence& layout);

// Returns decays scale softplus(x + bias) and steps sigmoid(y) of new rows, for x and y [n, Hv],
// scale and bias [Hv].  Each row by itself: it has the same bits whatever is computed with it.  No
// gradient.
struct DeltaRates {
  at::Tensor decays;
  at::Tensor steps;
};
DeltaRates cached_rates(const at::Tensor& x, const at::Tensor& y, const at::Tensor& bias,
                        const at::Tensor& scale);

// What rows left in each of R regions of a cache (CachedPart::region).
struct KeptStates {
  at::Tensor states;   // [R, Hv, K, V] after the last row
  at::Tensor windows;  // [R, W - 1, C] the inputs of the convolution before the next row
};

// Convolution and recurrence for new rows of sequences whose earlier rows left `kept`: x [n, C] and
// weight as in short_convolution().  Update `kept`.  In float32 on the CPU, row by row: a row has
// the same bits wherever parts are cut and whatever else is computed.  No gradient.
at::Tensor cached_convolution(const at::Tensor& x, const at::Tensor& weight,
                              const CachedRecurrence& layout, const KeptStates& kept);
at::Tensor cached_delta_rule(const DeltaOperands& operands, const DeltaHeads& heads,
                             const CachedRecurrence& layout, const KeptStates& kept);

}  // namespace bipo
