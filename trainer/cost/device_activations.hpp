// What a micro-batch takes on an accelerator with our own kernels.
#pragma once

#include "trainer/cost/rank_part.hpp"

namespace bipo {

// Returns the elements (of kActivationBytes) that are alive at most at one time in a step over a
// micro-batch of the run, weights and kept activations aside: its tables, what the backward pass of
// the blocks `suffix` needs, and the working space of the moment.  `suffix` ends with the last
// block.
double device_activations(const RankPart& part, Range suffix, const RunShape& run);

}  // namespace bipo
