// Says now and then how far a whole sweep has come: cells done, running and failed, and the time
// left.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "experiments/sweeps/sweep_directory.hpp"
#include "experiments/sweeps/sweep_plan.hpp"
#include "launcher/terminal/progress.hpp"

namespace bipo {

// For the rank that speaks.  It looks at the sweep's directory, so that what other groups and other
// jobs do counts as well.
class SweepProgress {
 public:
  // `display` must outlive it.
  SweepProgress(const std::filesystem::path& directory, const SweepPlan& plan, const CellCost& cost,
                ProgressDisplay& display);

  // To be called often; prints a line where the last is half a minute old.
  void tick();

  // Prints a line now.
  void report();

  // What this rank's group works on: the rate by which the remaining time is told.
  void pack_begins(const Pack& pack);
  void pack_has_done(double share);  // of the pack's steps
  void pack_ends();

 private:
  using Clock = std::chrono::steady_clock;

  std::string remaining_time(const std::vector<CellStatus>& status) const;

  SweepMonitor monitor_;
  std::vector<Cell> cells_;
  CellCost cost_;
  ProgressDisplay& display_;
  Clock::time_point last_report_ = Clock::now();
  double seconds_training_ = 0;  // of this group, in packs that have ended
  double cost_done_ = 0;         // in them
  Clock::time_point pack_begin_;
  double pack_cost_ = 0;  // 0: no pack is under way
  double pack_share_ = 0;
};

}  // namespace bipo
