// All that is decided and checked about a sweep before the ranks begin to work together.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "collectives/session.hpp"
#include "datasets/batch_plan.hpp"
#include "experiments/sweep_directory.hpp"
#include "experiments/sweep_plan.hpp"
#include "launcher/options.hpp"
#include "launcher/run_preparation.hpp"
#include "launcher/run_settings.hpp"

namespace bipo {

struct SweepPreparation {
  SweepOptions options;
  JobPreparation job;
  StepCost cost;
  SweepPlan plan;
  std::string plan_text;               // of plan.json
  std::vector<PackProgress> progress;  // one per pack of the plan; none for a dry run
  std::uint64_t agreement = 0;         // equal on ranks that are about to make the same sweep from
                                       // the same state

  // Layers of the packs from `first` on that are not complete; ascending, each once.
  std::vector<std::int64_t> layers_to_train(std::size_t first = 0) const;
};

// Reads and checks everything, without communicating, before anything heavy is loaded and without
// writing.  A dry run does not look at its directory.  Throws UserError.
SweepPreparation prepare_sweep(const SweepOptions& options, const Session& session);

// The settings with which the cell would be a training run by itself.
RunSettings cell_settings(const SweepPreparation& sweep, const Cell& cell);

// What its run file stores as `config`.
std::string cell_config(const SweepPreparation& sweep, const Cell& cell);

// Of a cell's run file when it is complete, roughly.
std::uint64_t run_file_bytes(const SweepPreparation& sweep);

}  // namespace bipo
