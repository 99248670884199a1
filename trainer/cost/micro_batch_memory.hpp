// What the micro-batches of batch plans take on an accelerator.
#pragma once

#include <vector>

#include "datasets/batches/batch_plan.hpp"
#include "datasets/tokens/token_pair.hpp"
#include "trainer/cost/cost.hpp"

namespace bipo {

// Returns the bytes (see RankMemory::activations) of the micro-batch that takes most, with the very
// `pairs` that it has, which share the beginning of their prompts where they are steered alike.
// `plans`: one for each vector of a pass, with equal sizes and numbers of steps; their
// micro-batches of one number go through the model together.  `run`: of its fields, those of pairs
// are not read. Of plans of many steps the first 100,000 of all are looked at.
double largest_micro_batch_bytes(const ModelConfig& config, const RunShape& run,
                                 const std::vector<TokenPair>& pairs,
                                 const std::vector<BatchPlan>& plans);

}  // namespace bipo
