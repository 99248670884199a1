// A sweep's plan as its directory keeps it.
#pragma once

#include <filesystem>
#include <string>

#include "experiments/sweeps/sweep_plan.hpp"

namespace bipo {

struct StoredPlan {
  SweepPlan plan;
  std::string text;  // of the file
};

// Reads plan.json.  Values of a cell that the file does not give are empty texts, -1 or NaN.
// Throws UserError, saying what is expected, where `directory` is no sweep's, or its plan is
// damaged or newer than this program.
StoredPlan read_stored_plan(const std::filesystem::path& directory);

}  // namespace bipo
