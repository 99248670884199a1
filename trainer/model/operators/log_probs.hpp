// Log-probabilities of given next tokens under a head whose vocabulary rows are split over a
// tensor-parallel group; logits exist for one block of the vocabulary at a time and are never kept.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "collectives/communicator.hpp"
#include "trainer/model/sharding/range.hpp"

namespace bipo {

// log softmax(cap(head h_u))[target_r] for u = row_of_target[r]: h [U, D], row_of_target and
// targets [R] int64 (targets of the whole vocabulary), head [V_local, D] the rows `vocabulary` of
// the head; cap(x) = c tanh(x / c) where c = soft_cap > 0, else x.  Returns [R], the same on every
// tp rank, in h's type.
//
// The gradient is linear in the one number that arrives per target, so the mean of the head's rows,
// weighted by the softmax and the cap's slope ([U, D], all that is kept), is formed in the forward
// pass.  It is this rank's partial sum: h must have come through copy_to_tensor_parallel().
// Collective over: tp
at::Tensor token_log_probs(const at::Tensor& h, const at::Tensor& head,
                           const at::Tensor& row_of_target, const at::Tensor& targets,
                           Range vocabulary, double soft_cap, Communicator& tp);

// cap(head h_u) over the whole vocabulary of size V, [U, V] in h's type, the same on every tp rank.
// No gradient.  Collective over: tp
at::Tensor token_logits(const at::Tensor& h, const at::Tensor& head, std::int64_t vocabulary,
                        double soft_cap, Communicator& tp);

}  // namespace bipo
