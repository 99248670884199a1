// Looks, before anything is loaded, whether a device has room for the pass over all pairs, and
// chooses what it packs together.
#pragma once

#include "experiments/training/prepared_model.hpp"
#include "experiments/training/run_preparation.hpp"

namespace bipo {

constexpr const char* kPrefixPass = "the prefix pass";

// Chooses job.device_pack and job.pack_bytes for the data of `request` (its budget is not read) as
// choose_packs() does.  After choose_cache_budget().  Does nothing on a CPU.  Local.
void choose_prefix_packs(JobPreparation& job, const DataRequest& request);

}  // namespace bipo
