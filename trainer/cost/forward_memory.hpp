// What a forward pass without a backward one takes on an accelerator at least.
#pragma once

#include <cstdint>

#include "trainer/cost/cost.hpp"

namespace bipo {

// A packed batch: T tokens, U of which are scored by the head.
struct ForwardBatch {
  double tokens = 0;
  double scored = 0;
};

// Return bytes of one of `tp` ranks, weights aside, that tensors of the pass hold at one time
// whatever kernels compute it: a device with less has certainly no room, one with more may have
// none.  On a real device attention's slots and what the allocator loses come on top.
//
// Scores of a batch, as score_continuations() makes them: three rows of the residual stream for
// each token, and what the MLP makes of it; or the logits of one block of the head's rows.
double least_scoring_bytes(const ModelConfig& config, std::int64_t tp, const ElementBytes& bytes,
                           const ForwardBatch& batch);

// Divergences at `settings` of steering, as prompt_divergences() computes them for T tokens: the
// outputs of all settings and the model's own are kept, and five float64 of each logit in a block
// of the head's rows.
double least_divergence_bytes(const ModelConfig& config, std::int64_t tp, const ElementBytes& bytes,
                              double tokens, double settings);

}  // namespace bipo
