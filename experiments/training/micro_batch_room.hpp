// Looks, before anything is loaded, whether a device has room for the work on a micro-batch.
#pragma once

#include <cstdint>

#include "experiments/settings/settings.hpp"
#include "experiments/training/run_preparation.hpp"

namespace bipo {

// Notes in `job.work_bytes` what the work on the largest micro-batch takes, if a training by
// `options` (of the run, or of a cell, with their layer and every `auto` resolved) updates
// `vectors` in one pass, and is more than what is noted there.  After choose_cache_budget(). Throws
// UserError, with the size of micro-batches that fit, where the device has certainly no room for it
// beside the weights; warns where that is not certain.  Does nothing on a CPU.  Local.
void require_micro_batch_room(JobPreparation& job, const TrainOptions& options,
                              std::int64_t vectors);

}  // namespace bipo
