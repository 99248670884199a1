// The operators that are one kernel of our own each (device_kernels.cuh), on tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>

#include "trainer/model/architecture/config.hpp"

namespace bipo {

// T rows.  Results are contiguous.  All tensors of a call have one type, float32, bfloat16 or
// float64, and lie on one device, for which runs_compiled() is true.  A result may be `narrow`:
// bfloat16, as the operand of a product, whatever the others are.

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
  bool narrow = false;  // y
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
at::Tensor compiled_gated_unit(const at::Tensor& gate_up, Activation activation,
                               bool narrow = false);
at::Tensor compiled_gated_unit_backward(const at::Tensor& gate_up, const at::Tensor& gradient,
                                        Activation activation, bool narrow = false);

// activation(x + shift), and its gradient.
at::Tensor compiled_plain_unit(const at::Tensor& x, const at::Tensor& shift, Activation activation,
                               bool narrow = false);
at::Tensor compiled_plain_unit_backward(const at::Tensor& x, const at::Tensor& shift,
                                        const at::Tensor& gradient, Activation activation,
                                        bool narrow = false);

// How many heads of each kind a row has, in this order.
struct HeadCounts {
  std::int64_t queries = 0;
  std::int64_t keys = 0;
  std::int64_t values = 0;
  bool shares_keys = false;  // values are the keys' numbers, which the row holds once

  std::array<std::int64_t, 3> all() const { return {queries, keys, values}; }
  std::int64_t sum() const { return queries + keys + values; }
  std::int64_t in_row() const { return queries + keys + (shares_keys ? 0 : values); }
};

// What heads pass through before they turn; each may be undefined.
struct HeadTransforms {
  at::Tensor bias = {};          // [heads K]
  at::Tensor query_norm = {};    // [K], the weight of an RMSNorm of every head by itself
  at::Tensor key_norm = {};      // [K]
  at::Tensor value_norm = {};    // [K]
  at::Tensor query_factor = {};  // [T, 1], behind the norm
  double epsilon = 0;
  bool together = false;     // a norm is of all heads of its kind, its weight [heads K]
  bool shares_keys = false;  // values are the keys' product, which rows hold once

  bool has_norms() const {
    return query_norm.defined() || key_norm.defined() || value_norm.defined();
  }
};

// Queries, keys and values [T, heads of the kind, K].
struct TurnedHeads {
  at::Tensor queries = {};
  at::Tensor keys = {};
  at::Tensor values = {};
  at::Tensor keys_and_values = {};  // [T, keys + values, K] whose parts these two are, if narrow
};

// Splits x [T, heads.in_row() K], which may be columns of a wider matrix, into queries, keys and
// values; adds the bias, norms them, multiplies queries by their factors; turns queries and keys by
// cos and sin [T, 1, K] (PaddedSpans).
TurnedHeads compiled_turn(const at::Tensor& x, const HeadCounts& heads, const at::Tensor& cos,
                          const at::Tensor& sin, const HeadTransforms& operands = {},
                          bool narrow = false);

// The gradient by x, from those of the three; an undefined one is 0.  x is read where
// there are norms only.
at::Tensor compiled_turn_back(const TurnedHeads& gradients, const HeadCounts& heads,
                              const at::Tensor& cos, const at::Tensor& sin,
                              const HeadTransforms& operands = {}, const at::Tensor& x = {},
                              bool narrow = false);

// S spans of `slots` slots.  x [n, heads, K] -> [S, H, slots, K] of `type`; head_of [H] int64
// (undefined: the same heads) names the heads of x.  Slots that repeat a row are 0 where
// slot_of_row is defined.
struct SlotTables {
  at::Tensor row_of_slot;  // [S slots] int64
  at::Tensor slot_of_row = {};
  at::Tensor head_of = {};
  std::int64_t spans = 0;  // S
  bool by_slot = false;    // in memory [S, slots, H, K]
};
at::Tensor compiled_to_slots(const at::Tensor& x, const SlotTables& tables, at::ScalarType type);

// x [S, heads, slots, K] -> [n, heads, K].
at::Tensor compiled_from_slots(const at::Tensor& x, const at::Tensor& slot_of_row,
                               bool narrow = false);

// The sums of x [S, H, slots, K] over the slots that hold a row: writes sums [n, Hkv, K], whose
// rows may be columns of a wider matrix.  first_slot [n + 1] int64 divides slots_by_row by rows,
// and first_head [Hkv + 1] int64 (undefined: the same heads) the heads of x.
void compiled_sum_slots(const at::Tensor& x, const at::Tensor& slots_by_row,
                        const at::Tensor& first_slot, const at::Tensor& first_head,
                        const at::Tensor& sums);

// softmax(cap tanh(scale / cap scores) + bias) of scores [S, H, q, k], bias [S, 1, q, k].
at::Tensor compiled_capped_softmax(const at::Tensor& scores, const at::Tensor& bias, double scale,
                                   double cap);

// Turns `d`, the gradient by the weights, into that by the scores.
void compiled_capped_softmax_backward(const at::Tensor& scores, const at::Tensor& weights,
                                      double scale, double cap, const at::Tensor& d);

}  // namespace bipo
