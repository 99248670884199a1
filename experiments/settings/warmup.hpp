// How many steps of linear warm-up a run has.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "experiments/settings/settings.hpp"

namespace bipo {

// Returns the steps of warm-up of a run of `total_steps` (at least 1):
//   --warmup X, a share:       X * total_steps, rounded up
//   --warmup N, steps:         N
//   neither, nor the next:     0.1 * total_steps, rounded up
// but always fewer than the run has, so that the learning rate reaches its peak; and
//   --warmup-steps N:          N, as it is
std::int64_t warmup_steps(const TrainingOptions& options, std::int64_t total_steps);

// Returns the value of --warmup-steps with which a run goes on that stored `config`.  Earlier
// versions stored 100 for a run without the option.
std::optional<std::int64_t> continued_warmup_steps(const TrainingOptions& given,
                                                   const std::string& config);

// The same for the text of a sweep's plan, which holds "auto" since cells differ in their steps.
std::optional<std::int64_t> continued_warmup_steps_of_plan(const TrainingOptions& given,
                                                           const std::string& plan);

// Returns what the plan of a sweep holds of the options' warm-up.
nlohmann::ordered_json planned_warmup(const TrainingOptions& options);

}  // namespace bipo
