// A sweep's plan as the file plan.json in the sweep's directory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "experiments/sweeps/sweep_plan.hpp"

namespace bipo {

// The newest schema_version that is read, and the one that is written.
inline constexpr std::int64_t kSweepPlanSchema = 1;

std::filesystem::path plan_path(const std::filesystem::path& directory);

// Returns the text of plan.json.
std::string plan_to_json(const SweepPlan& plan);

// Returns the text of a file.  Throws UserError where it cannot be read.
std::string read_plan_text(const std::filesystem::path& path);

// Compares the text of an existing plan with that of the sweep to start.  Throws UserError, listing
// each difference, unless they are the same plan; `path` names the existing one.
void check_same_plan(const std::string& stored, const std::string& now, const std::string& path);

struct StoredPlan {
  SweepPlan plan;
  std::string text;  // of the file
};

// Reads plan.json.  Values of a cell that the file lacks are empty texts, -1 or NaN.  Throws
// UserError, saying what is expected, where `directory` is not a sweep's, or its plan is damaged or
// newer than this program.
StoredPlan read_stored_plan(const std::filesystem::path& directory);

}  // namespace bipo
