// A sweep's plan as the file plan.json in the sweep's directory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "experiments/sweeps/sweep_plan.hpp"

namespace bipo {

// The newest schema_version that is read, and the one that is written.
inline constexpr std::int64_t kSweepPlanSchema = 1;

std::filesystem::path plan_path(const std::filesystem::path& directory);

// Returns the text of plan.json.
std::string plan_to_json(const SweepPlan& plan);

// Returns the text of a file.  Throws UserError where it cannot be read.
std::string read_plan_text(const std::filesystem::path& path);

// How the plan of a sweep to start fits the one that its directory holds.  A plan grows by
// revisions, counted from 1, of which each adds cells; nothing is ever taken away or changed.
struct PlanFit {
  std::int64_t revision = 1;       // of the stored plan
  std::vector<std::string> added;  // names of the cells that the stored plan lacks
  std::vector<std::string> later;  // of those that it holds and the sweep lacks, in its order: the
                                   // sweep is an earlier revision of it
};

// Compares the text of an existing plan with the sweep to start.  Throws UserError, listing each
// difference, unless that is the same plan, one that only adds cells, or an earlier revision;
// `path` names the existing one.
PlanFit fit_plan(const std::string& stored, const SweepPlan& now, const std::string& path);

// Returns the text of the next revision of a plan: its cells and packs as they are, then the cells
// of `now` that it lacks, in `packs` of their own, so that a claim on a pack means the same cells
// in every revision.  `now` must fit, with cells to add; `utc` is the time of the revision.
std::string extended_plan(const std::string& stored, const SweepPlan& now,
                          const std::vector<Pack>& packs, const std::string& utc);

// Returns the packs in the text of a plan whose members are among `cells`, with these as members.
// Throws UserError where some of these cells are in no such pack.
std::vector<Pack> packs_in_plan(const std::string& text, const std::vector<Cell>& cells,
                                const std::string& path);

// Returns which values of the axes the named cells bring that no other cell of the plan has, for
// example "layer 20, 25; seed 3"; "" where there are none.
std::string describe_added(const SweepPlan& plan, const std::vector<std::string>& added);

struct StoredPlan {
  SweepPlan plan;
  std::string text;  // of the file
};

// Reads plan.json.  Values of a cell that the file lacks are empty texts, -1 or NaN.  Throws
// UserError, saying what is expected, where `directory` is not a sweep's, or its plan is damaged or
// newer than this program.
StoredPlan read_stored_plan(const std::filesystem::path& directory);

}  // namespace bipo
