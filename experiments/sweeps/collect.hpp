// Merges the run files of sweeps, and single ones, into one HDF5 file.
//
//   attributes      schema_version, kind "sweep", plan (the text of plan.json; of several sources
//                   one plan in its form, in whose settings that differ go with a source),
//                   program_version, git_commit, created_utc
//   /summary        1-D compound table, one row per cell of the plan (see cell_summary.hpp); with
//                   the column `origin`, the cell's source, where there are several
//   /runs/<cell>    a copy of the cell's run file, the attributes of its root on the group
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace bipo {

// schema_version that is written.
inline constexpr std::int64_t kCollectedSchema = 1;

struct CollectRequest {
  std::vector<std::filesystem::path> sources;  // at least one: directories of sweeps, run files
  std::filesystem::path out;
  bool overwrite = false;       // `out` may be any file; otherwise only a collected sweep
  std::string program_version;  // for the file's attributes
  std::string git_commit;
};

struct CollectedCell {
  std::string name;
  std::string status;       // a CellStatus, or "unreadable": its run file is damaged or foreign
  std::string reason;       // why it failed or cannot be read; else empty
  std::string origin = {};  // its source where there are several; else empty
};

// Writes the file atomically, whatever the state of the sweeps, and returns its cells, source by
// source, in the plan's order.  Each run is copied from one save, even while its sweep continues.
// A single run is a cell named as its file.  Needs twice the new file's size of memory.  Throws
// UserError for a source that is neither a sweep's directory nor a run file, for a cell that two
// sources have, and for an `out` that must not be replaced, EnvironmentError where writing fails;
// an older file then stays.
std::vector<CollectedCell> collect_sweep(const CollectRequest& request);

// Describes for people what the file holds and lacks: the number of cells by status, and incomplete
// cells by name, with reasons.
std::string describe_collection(const std::vector<CollectedCell>& cells,
                                const std::filesystem::path& out);

// Returns the same for programs, as an object: out, counts (the number of cells of each status) and
// cells (name, status, the reason or null and, of several sources, the origin).
nlohmann::ordered_json collection_as_json(const std::vector<CollectedCell>& cells,
                                          const std::filesystem::path& out);

}  // namespace bipo
