// The head: next-token logits, log-probabilities and divergences, where the head's vocabulary rows
// are split over a tensor-parallel group.  Log-probabilities and divergences compute the logits of
// one block of the vocabulary at a time and never keep them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "collectives/communicator.hpp"

namespace bipo {

// A rank's part of the head of a model with D hidden elements and V tokens.  Logits are cap(row h +
// bias), where cap(x) = c tanh(x / c) if c = soft_cap > 0, else x.
struct HeadShard {
  at::Tensor rows;              // [V_local, D]
  std::int64_t vocabulary = 0;  // V
  double soft_cap = 0;          // c
  Communicator& tp;
  at::Tensor bias = {};  // [V_local] in h's type; may be undefined
};

// Returns log softmax(logits of h_u)[target_r], u = row_of_target[r], [R] in h's type, the same on
// every tp rank: h [U, D], row_of_target and targets [R] int64.  The ranks' rows must be those of
// plan_shard().
//
// The gradient is linear in the one number that arrives per target, so the forward pass forms the
// mean of the head's rows, weighted by the softmax and the cap's slope ([U, D], all that is kept).
// The gradient is this rank's partial sum: h must come from copy_to_tensor_parallel().
// Collective over: tp
at::Tensor token_log_probs(const at::Tensor& h, const HeadShard& head,
                           const at::Tensor& row_of_target, const at::Tensor& targets);

// Returns the logits [U, V] of h [U, D] in h's type, the same on every tp rank.  The ranks' rows
// must be those of plan_shard().  No gradient.  Collective over: tp
at::Tensor token_logits(const at::Tensor& h, const HeadShard& head);

// Returns KL(p_t || q_st), nats, [S, T] float64, the same on every tp rank, for p_t =
// softmax(logits of h_t) and q_st the same for row t of others[s]: h and each of the S others [T,
// D].  Accumulates in float64 everything after the logits; rows equal to those of h give exactly 0.
// Collective over: tp
at::Tensor token_divergences(const at::Tensor& h, const std::vector<at::Tensor>& others,
                             const HeadShard& head);

}  // namespace bipo
