// The directory of a sweep: its plan, the run files of its cells, and the state of packs and cells.
//
//   plan.json            written at the first start, extended by later ones (stored_plan.hpp)
//   <cell>.h5            run file of a cell
//   <pack>.checkpoint    state of a pack of several cells while it trains
//   claims/              which job works on which pack (claims.hpp)
//   failures/<cell>.json why a cell failed
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "experiments/runs/run_file.hpp"
#include "experiments/sweeps/claims.hpp"
#include "experiments/sweeps/stored_plan.hpp"
#include "experiments/sweeps/sweep_plan.hpp"

namespace bipo {

std::filesystem::path run_file_path(const std::filesystem::path& directory, const Cell& cell);
std::filesystem::path pack_checkpoint_path(const std::filesystem::path& directory,
                                           const Pack& pack);

// Packs the cells that a sweep adds to a plan.
using PackMaker = std::function<std::vector<Pack>(const std::vector<Cell>& cells)>;

// What plan.json holds, or will hold.
struct DirectoryPlan {
  std::string text;
  PlanFit fit;                   // to what is there now
  bool is_in_directory = false;  // whether there is a plan now
};

// Returns what begin_sweep_directory() would write.  Throws UserError unless the sweep can start in
// `directory` (it is new or empty), continue there (it is the plan there, or an earlier revision of
// it), or add cells to the plan there.  Changes nothing.
DirectoryPlan check_sweep_directory(const std::filesystem::path& directory, const SweepPlan& plan,
                                    const PackMaker& pack);

// Returns the same where `directory` holds a plan, else a new plan, whatever else is there.
DirectoryPlan plan_in_directory(const std::filesystem::path& directory, const SweepPlan& plan,
                                const PackMaker& pack);

// Returns the text of the plan in `directory`, "" where there is none.  Throws UserError.
std::string stored_plan(const std::filesystem::path& directory);

// Creates the directory and its plan where they are missing, or adds the sweep's cells to the plan,
// under a claim: of several jobs that do so at the same time, each sees what those before it wrote.
// Returns the text of the plan.  Throws UserError where another job has written, since the check, a
// plan that this one does not fit, and EnvironmentError.
std::string begin_sweep_directory(const std::filesystem::path& directory, const SweepPlan& plan,
                                  const PackMaker& pack);

struct CellFailure {
  std::string reason;
  std::string utc;   // ISO 8601
  std::string host;  // where it was found
};

// Records that a cell failed, in place of an older record.  Throws EnvironmentError.
void write_failure(const std::filesystem::path& directory, const std::string& cell,
                   const std::string& reason);

// Returns nothing where the cell has no record.  An unreadable record is a failure for an unknown
// reason.
std::optional<CellFailure> read_failure(const std::filesystem::path& directory,
                                        const std::string& cell);

// Removes the record, if there is one.  Throws EnvironmentError.
void clear_failure(const std::filesystem::path& directory, const std::string& cell);

struct PackProgress {
  bool is_done = false;  // every member is complete or has failed
  std::vector<std::size_t>
      active;                      // indices in the pack of the members that still train, ascending
  std::vector<RunRecord> records;  // the active members', all of one step; none: from the beginning
};

// Reads the pack's files, and rewinds the records of a pack under way to the step that all its
// active members share.  Members with a recorded failure are left out, unless `retries_failed`.
// Throws UserError for files that cannot be read or do not belong together (also where the pack's
// owner is writing them at this moment).
PackProgress read_pack_progress(const std::filesystem::path& directory, const Pack& pack,
                                bool retries_failed = false);

// Renames, to NAME.damaged or NAME.damaged.2 and so on, the pack's files that cannot be read, and
// its checkpoint where the pack cannot continue from it: the pack's cells then start again. Returns
// a line for each of them.  For the owner of the pack's claim.  Throws EnvironmentError.
std::vector<std::string> set_aside_damaged(const std::filesystem::path& directory, const Pack& pack,
                                           bool retries_failed = false);

// Removes the temp files that killed writers of the pack's files left.
void remove_stale_temps(const std::filesystem::path& directory, const Pack& pack);

enum class CellStatus {
  kComplete,
  kRunning,      // a live job has claimed its pack
  kInterrupted,  // begun, and no job works on it
  kFailed,
  kMissing,  // not begun
};

// Returns "complete", "running", "interrupted", "failed" or "missing".
std::string to_string(CellStatus status);

// Looks at a sweep's directory repeatedly.  Only reads, apart from what `times` says.
class SweepMonitor {
 public:
  SweepMonitor(std::filesystem::path directory, const SweepPlan& plan,
               const ClaimTimes& times = {});

  // Returns the status of the plan's cells, in its order.  An unreadable run file counts as
  // interrupted.
  const std::vector<CellStatus>& look();

 private:
  CellStatus look_at(const Cell& cell, bool is_claimed) const;

  std::filesystem::path directory_;
  ClaimTimes times_;
  std::vector<Cell> cells_;
  std::vector<std::string> pack_of_cell_;
  std::vector<CellStatus> status_;
};

}  // namespace bipo
