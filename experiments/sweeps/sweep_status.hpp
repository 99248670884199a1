// What has become of every cell of a sweep so far.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "experiments/sweeps/sweep_plan.hpp"

namespace bipo {

enum class CellStatus {
  kComplete,
  kRunning,      // somebody works on its pack now
  kInterrupted,  // begun, and nobody works on it
  kFailed,
  kMissing,  // not begun
};

// "complete", "running", "interrupted", "failed", "missing".
std::string to_string(CellStatus status);

// Looks at a sweep's directory now and then.  Only reads.
class SweepMonitor {
 public:
  SweepMonitor(std::filesystem::path directory, const SweepPlan& plan);

  // Of the plan's cells, in its order.  A run file that cannot be read counts as interrupted.
  const std::vector<CellStatus>& look();

 private:
  CellStatus look_at(const Cell& cell, bool is_claimed) const;

  std::filesystem::path directory_;
  std::vector<Cell> cells_;
  std::vector<std::string> pack_of_cell_;
  std::vector<CellStatus> status_;
};

}  // namespace bipo
