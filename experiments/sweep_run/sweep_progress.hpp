// Reports the progress of the whole sweep periodically: a board of its cells where the display has
// one, else a line with the numbers of cells done, running and failed, and the time left.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "experiments/progress/progress.hpp"
#include "experiments/sweep_run/sweep_board.hpp"
#include "experiments/sweeps/short_names.hpp"
#include "experiments/sweeps/sweep_directory.hpp"
#include "experiments/sweeps/sweep_plan.hpp"
#include "experiments/sweeps/sweep_queue.hpp"

namespace bipo {

// Reads the sweep's directory, so that the work of other groups and other jobs counts as well.
class SweepProgress {
 public:
  // `display` and `plan` must outlive it.  Reads and prints on the root only.
  SweepProgress(const std::filesystem::path& directory, const SweepPlan& plan, const CellCost& cost,
                ProgressDisplay& display, bool is_root);

  // Redraws the board every second, looking at the directory every ten; or prints a line if the
  // last one is half a minute old.  To be called often.
  void tick();

  // Looks at the directory and shows it now.
  void report();

  // Takes the board away and prints the last line.
  void finish();

  // Record what this rank's group works on: its rate gives the remaining time.
  void pack_begins(const Pack& pack);
  void pack_has_done(double share);  // of the pack's steps
  void pack_ends();

 private:
  using Clock = std::chrono::steady_clock;

  void show();
  std::string line(const SweepEstimate& estimated) const;
  SweepPace pace() const;

  std::optional<SweepMonitor> monitor_;  // empty on ranks but the root
  const SweepPlan& plan_;
  CellCost cost_;
  ShortNames names_;
  ProgressDisplay& display_;
  std::vector<CellStatus> status_;  // at the last look
  Clock::time_point last_look_ = Clock::now();
  Clock::time_point last_report_ = Clock::now();
  double seconds_training_ = 0;  // this group's, in packs that have ended
  double cost_done_ = 0;         // cost of those packs
  Clock::time_point pack_begin_;
  double pack_cost_ = 0;  // 0: no pack is training
  double pack_share_ = 0;
};

}  // namespace bipo
