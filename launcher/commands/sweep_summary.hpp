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

// Returns one line of at most 80 columns for each cell: its short name, status, last held-out
// accuracy and margin at the multipliers, those furthest from 0 if not all fit (without evaluation,
// the last training loss); then the reasons of failed cells, and where the run files are.
SweepSummary summarize_sweep(const std::filesystem::path& directory, const SweepPlan& plan,
                             const std::vector<double>& multipliers, bool evaluates,
                             bool has_colours);

}  // namespace bipo
