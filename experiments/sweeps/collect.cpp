// Merges the run files of a sweep into one HDF5 file.
#include "experiments/sweeps/collect.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <exception>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "experiments/files/atomic_file.hpp"
#include "experiments/files/hdf5.hpp"
#include "experiments/files/process_identity.hpp"
#include "experiments/files/trial_process.hpp"
#include "experiments/runs/run_file.hpp"
#include "experiments/sweeps/cell_summary.hpp"
#include "experiments/sweeps/stored_plan.hpp"
#include "experiments/sweeps/sweep_directory.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;
using hdf5::Handle;

constexpr hdf5::FileKind kCollectedFile = {"a collected sweep", "collect", "sweep",
                                           kCollectedSchema,    "",        ""};
constexpr const char* kUnreadable = "unreadable";
// What a cell's status may be, in the order of the description.
constexpr std::array kStatuses = {"complete", "running",   "interrupted",
                                  "failed",   kUnreadable, "missing"};

// A run file's content: as a record, and copied to the group kRunCopy of a file in memory.
struct RunContent {
  RunRecord record;
  Handle copy;
};

constexpr const char* kRunCopy = "run";

RunContent read_content(const Handle& file) {
  RunContent content{read_run(file), hdf5::create_memory_file()};
  hdf5::copy_file(file, content.copy, kRunCopy);
  return content;
}

// Nothing of a collected sweep is read but its kind.
bool read_nothing(const Handle& file) {
  return file.id() >= 0;
}

const hdf5::Reading<RunContent> kRunContent("run to collect", kRunFileKind, read_content);
const hdf5::Reading<bool> kCollected("collected sweep", kCollectedFile, read_nothing);

bool is_collected_sweep(const fs::path& path) {
  try {
    return kCollected.from(path);
  } catch (const UserError&) {
    return false;
  }
}

bool is_part_of_sweep(const fs::path& out, const fs::path& directory, const SweepPlan& plan) {
  const auto names_out = [place = fs::weakly_canonical(out)](const fs::path& path) {
    return fs::weakly_canonical(path) == place;
  };
  return names_out(directory / "plan.json") ||
         std::any_of(plan.cells.begin(), plan.cells.end(),
                     [&](const Cell& cell) { return names_out(run_file_path(directory, cell)); });
}

void check_out(const CollectRequest& request, const SweepPlan& plan) {
  const std::string out = request.out.string();
  check_replaceable(request.out);
  if (is_part_of_sweep(request.out, request.directory, plan)) {
    throw UserError(fmt::format(
        "--out {}: a file of the sweep itself, which must not be replaced; name another", out));
  }
  if (!request.overwrite && fs::exists(request.out) && !is_collected_sweep(request.out)) {
    throw UserError(fmt::format(
        "--out {}: exists and was not written by `bipo-dist collect`; name another file, or give "
        "--overwrite",
        out));
  }
}

// Returns the reason without the path, which the reader knows.
std::string reason_of(const std::exception& error, const fs::path& path) {
  const std::string_view message = error.what();
  const std::string prefix = path.string() + ": ";
  return std::string(message.starts_with(prefix) ? message.substr(prefix.size()) : message);
}

void require_run_of(const Cell& cell, const RunRecord& record) {
  if (record.attributes.layer != cell.layer || record.checkpoint.seed != cell.seed) {
    throw UserError(fmt::format("a run of layer {} and seed {}, not this cell's",
                                record.attributes.layer, record.checkpoint.seed));
  }
}

// `seen`: the status found in the directory before the file was opened.
std::string status_with_file(RunStatus status, CellStatus seen) {
  if (status == RunStatus::kComplete) {
    return to_string(CellStatus::kComplete);
  }
  return to_string(seen == CellStatus::kMissing ? CellStatus::kRunning : seen);
}

std::string status_without_file(CellStatus seen) {
  const bool had_file = seen == CellStatus::kComplete || seen == CellStatus::kInterrupted;
  return to_string(had_file ? CellStatus::kMissing : seen);
}

std::string failure_of(const fs::path& directory, const Cell& cell) {
  const auto failure = read_failure(directory, cell.name);
  if (!failure) {
    return "";
  }
  return failure->host.empty()
             ? failure->reason
             : fmt::format("{} ({}, {})", failure->reason, failure->host, failure->utc);
}

// Copies the run to `runs` and its figures to `row`.  Throws UserError or EnvironmentError where
// the file does not hold the complete run of the cell.
RunStatus collect_run(const fs::path& path, const Cell& cell, const Handle& runs,
                      CellSummary& row) {
  const RunContent run = kRunContent.from(path);
  require_run_of(cell, run.record);
  hdf5::copy_group(run.copy, kRunCopy, runs, cell.name);
  add_run(run.record, row);
  return run.record.attributes.status;
}

CellSummary collect_cell(const fs::path& directory, const Cell& cell, CellStatus seen,
                         const Handle& runs) {
  CellSummary row;
  row.cell = cell;
  row.status = kUnreadable;
  const fs::path path = run_file_path(directory, cell);
  try {
    row.status = fs::exists(path) ? status_with_file(collect_run(path, cell, runs, row), seen)
                                  : status_without_file(seen);
  } catch (const UserError& error) {
    row.failure = reason_of(error, path);
  } catch (const EnvironmentError& error) {
    row.failure = reason_of(error, path);
  }
  if (row.status == to_string(CellStatus::kFailed)) {
    row.failure = failure_of(directory, cell);
  }
  return row;
}

void write_collected_attributes(const Handle& file, const CollectRequest& request,
                                const std::string& plan) {
  hdf5::write_identity(file, kCollectedFile);
  hdf5::write_attribute(file, "plan", plan);
  hdf5::write_attribute(file, "program_version", request.program_version);
  hdf5::write_attribute(file, "git_commit", request.git_commit);
  hdf5::write_attribute(file, "created_utc", utc_text());
  hdf5::write_attributes_checksum(file);
}

std::vector<CellSummary> collect_cells(const fs::path& directory, const SweepPlan& plan,
                                       const Handle& file) {
  const TrialProcessKept trials;
  SweepMonitor monitor(directory, plan);
  const std::vector<CellStatus>& seen = monitor.look();
  const Handle runs = hdf5::create_group(file, "runs");
  std::vector<CellSummary> rows;
  for (std::size_t i = 0; i < plan.cells.size(); ++i) {
    rows.push_back(collect_cell(directory, plan.cells[i], seen[i], runs));
  }
  return rows;
}

// Lists at most kMostShown names, then the number of the others.
std::string describe_cells(const std::vector<const CollectedCell*>& cells) {
  constexpr std::size_t kMostShown = 20;
  std::string text;
  for (std::size_t i = 0; i < std::min(cells.size(), kMostShown); ++i) {
    const CollectedCell& cell = *cells[i];
    text += cell.reason.empty() ? fmt::format("  {}\n", cell.name)
                                : fmt::format("  {}: {}\n", cell.name, cell.reason);
  }
  if (cells.size() > kMostShown) {
    text += fmt::format("  and {} more\n", cells.size() - kMostShown);
  }
  return text;
}

}  // namespace

std::vector<CollectedCell> collect_sweep(const CollectRequest& request) {
  const StoredPlan stored = read_stored_plan(request.directory);
  check_out(request, stored.plan);
  const hdf5::ErrorPrintingOff quiet;
  const Handle file = hdf5::create_memory_file();
  write_collected_attributes(file, request, stored.text);
  const std::vector<CellSummary> rows = collect_cells(request.directory, stored.plan, file);
  write_summary(file, rows, stored.plan.settings);
  remove_stale_temps(request.out);
  replace_file(request.out, hdf5::sealed_image(file));

  std::vector<CollectedCell> cells;
  for (const CellSummary& row : rows) {
    cells.push_back({row.cell.name, row.status, row.failure});
  }
  return cells;
}

std::string describe_collection(const std::vector<CollectedCell>& cells, const fs::path& out) {
  std::vector<std::string> counts;
  std::string lists;
  for (const char* status : kStatuses) {
    std::vector<const CollectedCell*> members;
    for (const CollectedCell& cell : cells) {
      if (cell.status == status) {
        members.push_back(&cell);
      }
    }
    if (members.empty()) {
      continue;
    }
    counts.push_back(fmt::format("{} {}", members.size(), status));
    if (status != std::string_view("complete")) {
      lists += fmt::format("{}:\n{}", status, describe_cells(members));
    }
  }
  std::string text = fmt::format("{}: {} {}: {}\n", out.string(), cells.size(),
                                 cells.size() == 1 ? "cell" : "cells", fmt::join(counts, ", "));
  if (!lists.empty()) {
    text +=
        lists +
        "not the whole sweep: run `bipo-dist sweep` with the same options for what is left (add "
        "--retry-failed for failed cells), then collect again\n";
  }
  return text;
}

nlohmann::ordered_json collection_as_json(const std::vector<CollectedCell>& cells,
                                          const fs::path& out) {
  using Json = nlohmann::ordered_json;
  Json counts;
  for (const char* status : kStatuses) {
    counts[status] = std::count_if(cells.begin(), cells.end(), [&](const CollectedCell& cell) {
      return cell.status == status;
    });
  }
  Json list = Json::array();
  for (const CollectedCell& cell : cells) {
    list.push_back({{"name", cell.name},
                    {"status", cell.status},
                    {"reason", cell.reason.empty() ? Json() : Json(cell.reason)}});
  }
  return {{"out", out.string()}, {"counts", counts}, {"cells", list}};
}

}  // namespace bipo
