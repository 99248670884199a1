// The directory of a sweep: its plan, the run files of its cells, and how far each pack has come.
//
//   plan.json            written once, at the first start
//   <cell>.h5            run file of a cell
//   <pack>.checkpoint    of a pack of several cells, while it is under way
//   claims/              who works on which pack (claims.hpp)
//   failures/<cell>.json why a cell failed (cell_failure.hpp)
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "experiments/runs/run_file.hpp"
#include "experiments/sweeps/sweep_plan.hpp"

namespace bipo {

// M members of a pack.

std::filesystem::path run_file_path(const std::filesystem::path& directory, const Cell& cell);
std::filesystem::path pack_checkpoint_path(const std::filesystem::path& directory,
                                           const Pack& pack);

// Throws UserError unless a sweep with this text of its plan can begin in `directory` (there is
// none, or it is empty) or go on (it holds the same plan).  Changes nothing.
void check_sweep_directory(const std::filesystem::path& directory, const std::string& plan);

// The text of the plan in `directory`, "" where there is none.  Throws UserError.
std::string stored_plan(const std::filesystem::path& directory);

// Makes the directory and its plan where they are missing.  Throws EnvironmentError.
void begin_sweep_directory(const std::filesystem::path& directory, const std::string& plan);

// How far a pack has come.
struct PackProgress {
  bool is_done = false;             // nothing is left to do: every member is complete or has failed
  std::vector<std::size_t> active;  // places in the pack of the members that still train, ascending
  std::vector<RunRecord> records;   // of the active members, of one step; none: from the beginning
};

// What the pack's files hold: those of a pack under way are taken back to the step that all its
// active members share.  Members with a failure on record take no part, unless `retries_failed`.
// Throws UserError for files that cannot be read or do not belong together (also where the pack's
// owner is writing them at this moment).
PackProgress read_pack_progress(const std::filesystem::path& directory, const Pack& pack,
                                bool retries_failed = false);

// Removes what killed writers of the pack's files left beside them.
void remove_stale_temps(const std::filesystem::path& directory, const Pack& pack);

}  // namespace bipo
