// All that is decided and checked about a training run before the ranks begin to work together.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "collectives/session.hpp"
#include "datasets/batches/batch_plan.hpp"
#include "experiments/runs/run_file.hpp"
#include "launcher/options/options.hpp"
#include "launcher/training/run_settings.hpp"
#include "launcher/training/training_inputs.hpp"

namespace bipo {

// What the cells of a sweep have in common, and a single run has too.
struct JobPreparation {
  TrainingInputs inputs;
  RunSettings settings;
  std::optional<Topology> topology;  // always set
  c10::Device device{c10::kCPU};     // selected
  c10::ScalarType product_type = c10::kFloat;
  std::vector<std::string> warnings;
};

struct Preparation {
  JobPreparation job;
  PlanSettings plan;
  std::optional<RunRecord> previous;  // the run that --resume continues
  std::string created_utc;            // of the run, thus of its first start
  std::string config;                 // settings_to_json()
  std::uint64_t agreement =
      0;  // equal on ranks that are about to make the same run from the same state
};

// Reads and checks everything but the places of results, without communicating and before anything
// heavy is loaded.  `topology`: of the ranks that train together.  `micro_batch` is used where the
// options leave it open; without it, too, the batch is dealt to the replicas.  The layer of
// `options` is not looked at.  Throws UserError.
JobPreparation prepare_job(const TrainOptions& options, const Topology& topology,
                           std::optional<std::int64_t> micro_batch, const Session& session);

// Decides how much may be cached for training at `layers` (ascending), and checks that weights and
// the rest fit.  Throws UserError.
void choose_cache_budget(JobPreparation& job, const std::vector<std::int64_t>& layers,
                         const Session& session);

PlanSettings plan_settings(const RunSettings& settings, const std::vector<TokenPair>& pairs);

// All of the above for one run, which begins at `created_utc` unless it continues one.  Throws
// UserError.
Preparation prepare_run(const TrainOptions& given, const std::string& created_utc,
                        const Session& session);

}  // namespace bipo
