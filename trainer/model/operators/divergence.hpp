// How far next-token distributions lie apart, under a head whose vocabulary rows are split over a
// tensor-parallel group; logits exist for one block of the vocabulary at a time and are never kept.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "collectives/communicator.hpp"

namespace bipo {

// KL(p_t || q_st), nats, for p_t = softmax(cap(head h_t)) and q_st the same of row t of others[s]:
// h and each of the S others [T, D], head [V_local, D] the rows of the head that this rank holds;
// cap as in token_log_probs().  Returns [S, T] float64, the same on every tp rank; everything after
// the logits is accumulated in float64, and rows equal to those of h give exactly 0. Collective
// over: tp
at::Tensor token_divergences(const at::Tensor& h, const std::vector<at::Tensor>& others,
                             const at::Tensor& head, double soft_cap, Communicator& tp);

}  // namespace bipo
