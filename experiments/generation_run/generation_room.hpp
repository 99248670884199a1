// Looks, before anything is loaded, whether there is memory for the texts of a generation.
#pragma once

#include <cstdint>

#include "experiments/generation_run/generation_job.hpp"

namespace bipo {

// Throws UserError, with the --batch-size that may have room, where keys and values of a batch of
// prompts, and on a device the work of its passes, have certainly none in the `left` bytes beside
// the weights and conceptors (unless every text ends with its first token), or the pass that
// decides their gates, which comes first, has none there.  What is let through on a device may
// still have none: of the passes only what they surely hold is counted.  `job` has all but its
// warnings.  Local.
void require_generation_room(const GenerationJob& job, std::uint64_t left);

}  // namespace bipo
