// What has become of every cell of a sweep so far.
#include "experiments/sweeps/sweep_status.hpp"

#include <map>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "experiments/runs/run_file.hpp"
#include "experiments/sweeps/cell_failure.hpp"
#include "experiments/sweeps/claims.hpp"
#include "experiments/sweeps/sweep_directory.hpp"

namespace bipo {
namespace {

bool is_complete(const std::filesystem::path& run_file) {
  try {
    return read_run_status(run_file) == RunStatus::kComplete;
  } catch (const UserError&) {
    return false;
  }
}

}  // namespace

std::string to_string(CellStatus status) {
  switch (status) {
    case CellStatus::kComplete:
      return "complete";
    case CellStatus::kRunning:
      return "running";
    case CellStatus::kInterrupted:
      return "interrupted";
    case CellStatus::kFailed:
      return "failed";
    case CellStatus::kMissing:
      break;
  }
  return "missing";
}

SweepMonitor::SweepMonitor(std::filesystem::path directory, const SweepPlan& plan)
    : directory_(std::move(directory)),
      cells_(plan.cells),
      status_(plan.cells.size(), CellStatus::kMissing) {
  std::map<std::string, std::string> packs;
  for (const Pack& pack : plan.packs) {
    for (const Cell& cell : pack.members) {
      packs[cell.name] = pack.name;
    }
  }
  for (const Cell& cell : cells_) {
    pack_of_cell_.push_back(packs.at(cell.name));
  }
}

const std::vector<CellStatus>& SweepMonitor::look() {
  std::map<std::string, bool> claimed;  // by pack
  for (std::size_t i = 0; i < cells_.size(); ++i) {
    if (status_[i] == CellStatus::kComplete) {
      continue;
    }
    const std::string& pack = pack_of_cell_[i];
    if (!claimed.contains(pack)) {
      claimed[pack] = claim_state(directory_, pack) == ClaimState::kLive;
    }
    status_[i] = look_at(cells_[i], claimed[pack]);
  }
  return status_;
}

CellStatus SweepMonitor::look_at(const Cell& cell, bool is_claimed) const {
  const std::filesystem::path run_file = run_file_path(directory_, cell);
  const bool has_file = std::filesystem::exists(run_file);
  if (has_file && is_complete(run_file)) {
    return CellStatus::kComplete;
  }
  if (read_failure(directory_, cell.name)) {
    return CellStatus::kFailed;
  }
  if (is_claimed) {
    return CellStatus::kRunning;
  }
  return has_file ? CellStatus::kInterrupted : CellStatus::kMissing;
}

}  // namespace bipo
