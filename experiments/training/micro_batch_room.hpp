// Looks, before anything is loaded, at the work on a micro-batch on a device: whether it is worth
// recording, and whether the device has room for it.
#pragma once

#include <cstdint>
#include <string>

#include "experiments/settings/settings.hpp"
#include "experiments/training/run_preparation.hpp"

namespace bipo {

// Returns why micro-batches of a training by `options` (of the run, or of a cell, with their layer
// and every `auto` resolved), which updates `vectors` in one pass, are not recorded as graphs
// although their work could be; empty: they are, or there is an obstacle (graph_obstacle()).
std::string reason_not_to_record(const JobPreparation& job, const TrainOptions& options,
                                 std::int64_t vectors);

// Notes in `job.work_bytes` what the work on the largest micro-batch of such a training takes, if
// that is more than what is noted there; ends recording (and says so in `job.unrecorded`) where its
// graphs have no room beside it.  After choose_cache_budget(). Throws
// UserError, with the size of micro-batches that fit, where the device has certainly no room for it
// beside the weights; warns where that is not certain.  Does nothing on a CPU.  Local.
void require_micro_batch_room(JobPreparation& job, const TrainOptions& options,
                              std::int64_t vectors);

}  // namespace bipo
