// What has become of a sweep, as a table for the terminal.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "experiments/sweeps/sweep_plan.hpp"

namespace bipo {

struct SweepSummary {
  std::string text;
  std::size_t failed = 0;  // cells
  std::size_t running = 0;
};

// Status, the last held-out accuracy at each multiplier (the last training loss, where nothing was
// evaluated) and the run file of each cell, and why cells failed.
SweepSummary summarize_sweep(const std::filesystem::path& directory, const SweepPlan& plan,
                             const std::vector<double>& multipliers, bool evaluates);

}  // namespace bipo
