// All that is decided and checked about a training run before the ranks begin to work together.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "collectives/session.hpp"
#include "datasets/batch_plan.hpp"
#include "experiments/run_file.hpp"
#include "launcher/options.hpp"
#include "launcher/run_settings.hpp"
#include "launcher/training_inputs.hpp"

namespace bipo {

struct Preparation {
  TrainingInputs inputs;
  RunSettings settings;
  std::optional<Topology> topology;  // always set
  PlanSettings plan;
  c10::Device device{c10::kCPU};  // selected
  c10::ScalarType product_type = c10::kFloat;
  std::optional<RunRecord> previous;  // the run that --resume continues
  std::string config;                 // settings_to_json()
  std::vector<std::string> warnings;
  std::uint64_t agreement =
      0;  // equal on ranks that are about to make the same run from the same state
};

// Reads and checks everything, without communicating and before anything heavy is loaded.  Throws
// UserError.
Preparation prepare_run(const TrainOptions& options, const Session& session);

}  // namespace bipo
