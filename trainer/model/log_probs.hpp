// Log-probabilities of given next tokens under a head whose vocabulary rows are split over a
// tensor-parallel group; logits are never gathered and never kept.
#pragma once

#include <ATen/core/Tensor.h>

#include "collectives/communicator.hpp"
#include "trainer/model/range.hpp"

namespace bipo {

// log softmax(head h_r)[target_r] for every row: h [R, D], targets [R] int64 (of the whole
// vocabulary), head [V_local, D] the rows `vocabulary` of the head.  Returns [R], the same on every
// tp rank, in h's type.
//
// The gradient is linear in the one number that arrives per row, so d logp_r / d h_r is formed in
// the forward pass, chunk of rows by chunk, and only it ([R, D]) is kept.  It is this rank's
// partial sum: h must have come through copy_to_tensor_parallel(). Collective over: tp
at::Tensor token_log_probs(const at::Tensor& h, const at::Tensor& head, const at::Tensor& targets,
                           Range vocabulary, Communicator& tp);

}  // namespace bipo
