// What the micro-batches of a batch plan take on an accelerator.
#pragma once

#include <vector>

#include "datasets/batches/batch_plan.hpp"
#include "datasets/tokens/token_pair.hpp"
#include "trainer/cost/cost.hpp"

namespace bipo {

// Returns the bytes (see RankMemory::activations) of the micro-batch of `plan` that takes most,
// with the very `pairs` that it has, which share the beginning of their prompts where they are
// steered alike.  `run`: of its fields, those of pairs are not read.  Of a plan of many steps the
// first 100,000 are looked at.
double largest_micro_batch_bytes(const ModelConfig& config, RunShape run,
                                 const std::vector<TokenPair>& pairs, const BatchPlan& plan);

}  // namespace bipo
