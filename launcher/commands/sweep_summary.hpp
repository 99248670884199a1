// Summarises the state of a sweep as a table for the terminal.
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
  std::size_t weak = 0;  // complete, but without an effect that is shown
};

// Returns each cell's status, last held-out accuracy at each multiplier (without evaluation, the
// last training loss) and run file, and the reasons of failed cells.
SweepSummary summarize_sweep(const std::filesystem::path& directory, const SweepPlan& plan,
                             const std::vector<double>& multipliers, bool evaluates);

}  // namespace bipo
