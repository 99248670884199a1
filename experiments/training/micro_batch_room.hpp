// Looks, before anything is loaded, at the work on a micro-batch on a device: whether it is worth
// recording, and whether the device has room for it.
#pragma once

#include <string>
#include <vector>

#include "experiments/settings/settings.hpp"
#include "experiments/training/run_preparation.hpp"

namespace bipo {

// `members`: the options of the run, or of each cell of a pack, with their layer and every `auto`
// resolved; the vectors that are updated in one pass.  Layer, sizes and machine are alike.

// Returns why micro-batches of such a training are not recorded as graphs although their work could
// be; empty: they are, or there is an obstacle (graph_obstacle()).
std::string reason_not_to_record(const JobPreparation& job,
                                 const std::vector<TrainOptions>& members);

// Notes in `job.work_bytes` what the work on the largest micro-batch of such a training takes, if
// that is more than what is noted there; ends recording (and says so in `job.unrecorded`) where its
// graphs have no room beside it.  After choose_cache_budget().  Throws UserError, with the size of
// micro-batches that fit, where the device has certainly no room for it beside the weights; warns
// where that is not certain.  Does nothing on a CPU.  Local: ranks whose devices have other room
// may come to another result, see prepare_data() for graphs.
void require_micro_batch_room(JobPreparation& job, const std::vector<TrainOptions>& members);

}  // namespace bipo
