// The result of a sweep as a table: one row per cell, from the run files.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "experiments/sweep_plan.hpp"

namespace bipo {

// Status, the last held-out accuracy at each multiplier (the last training loss, where nothing was
// evaluated) and the run file of each cell.
std::string sweep_summary(const std::filesystem::path& directory, const std::vector<Cell>& cells,
                          const std::vector<double>& multipliers, bool evaluates);

}  // namespace bipo
