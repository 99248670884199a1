// Looks, before anything is loaded, whether a device has room for the batches of an evaluation.
#pragma once

#include <cstdint>

#include "experiments/evaluation_run/evaluation_job.hpp"

namespace bipo {

// Throws UserError, with the --batch-size that may have room, where the pass over a batch of some
// measure, or the one that decides its prompts' gates, has certainly none in the `left` bytes
// beside the weights.  What is let through may still have none: only what a pass surely holds is
// counted.  Does nothing on a CPU.  Local.
void require_batch_room(const EvaluationJob& job, std::uint64_t left);

}  // namespace bipo
