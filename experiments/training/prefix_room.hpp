// Looks, before anything is loaded, whether a device has room for the pass over all pairs, and
// chooses what it packs together.
#pragma once

#include "experiments/training/prepared_model.hpp"
#include "experiments/training/run_preparation.hpp"

namespace bipo {

// Chooses job.device_pack for the data of `request` (its budget is not read): kTokensPerDevicePack,
// or less where, by what is counted of the packs, the largest has certainly no room beside the
// weights that are loaded at that time, which a warning says, because last bits depend on the
// packs.  Notes in job.pack_bytes what the work on the largest one takes at least.  Throws
// UserError where a pair by itself has certainly no room.  After choose_cache_budget().  Does
// nothing on a CPU.  Local: ranks whose devices have other room may come to another result, on
// which prepare_data() agrees.
void choose_prefix_packs(JobPreparation& job, const DataRequest& request);

}  // namespace bipo
