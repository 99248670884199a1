#include "experiments/sweep_run/sweep_progress.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace bipo {
namespace {

constexpr std::chrono::seconds kLineInterval{30};
constexpr std::chrono::seconds kBoardInterval{1};
constexpr std::chrono::seconds kLookInterval{10};  // reads many files, perhaps over a network

std::size_t count(const std::vector<CellStatus>& status, CellStatus wanted) {
  return static_cast<std::size_t>(std::count(status.begin(), status.end(), wanted));
}

}  // namespace

SweepProgress::SweepProgress(const std::filesystem::path& directory, const SweepPlan& plan,
                             const CellCost& cost, ProgressDisplay& display, bool is_root)
    : plan_(plan), cost_(cost), names_(plan.cells), display_(display) {
  if (is_root) {
    monitor_.emplace(directory, plan);
  }
}

void SweepProgress::tick() {
  const auto now = Clock::now();
  if (display_.has_board() && !status_.empty() && now - last_look_ < kLookInterval) {
    if (now - last_report_ >= kBoardInterval) {
      show();
    }
  } else if (now - last_report_ >= (display_.has_board() ? kBoardInterval : kLineInterval)) {
    report();
  }
}

void SweepProgress::report() {
  last_report_ = last_look_ = Clock::now();
  if (monitor_ && display_.shows_progress()) {
    status_ = monitor_->look();
    show();
  }
}

void SweepProgress::finish() {
  if (monitor_) {
    display_.board({});
    status_ = monitor_->look();
    display_.message(line(estimate(plan_, status_, cost_, pace())));
  }
}

void SweepProgress::show() {
  last_report_ = Clock::now();
  const SweepEstimate estimated = estimate(plan_, status_, cost_, pace());
  if (!display_.has_board()) {
    display_.message(line(estimated));
    return;
  }
  std::vector<BoardCell> cells;
  for (std::size_t i = 0; i < plan_.cells.size(); ++i) {
    cells.push_back({names_.of(plan_.cells[i]), status_[i], estimated.cells[i]});
  }
  display_.board(sweep_board(line(estimated), cells, display_.board_room()));
}

std::string SweepProgress::line(const SweepEstimate& estimated) const {
  return fmt::format(
      "sweep: {} of {} cells done, {} running, {} failed{}", count(status_, CellStatus::kComplete),
      status_.size(), count(status_, CellStatus::kRunning), count(status_, CellStatus::kFailed),
      estimated.whole < 0 ? "" : fmt::format(", ETA {}", clock_text(estimated.whole)));
}

void SweepProgress::pack_begins(const Pack& pack) {
  pack_begin_ = Clock::now();
  pack_cost_ = pack_cost(pack, cost_);
  pack_share_ = 0;
}

void SweepProgress::pack_has_done(double share) {
  pack_share_ = share;
}

void SweepProgress::pack_ends() {
  seconds_training_ += std::chrono::duration<double>(Clock::now() - pack_begin_).count();
  cost_done_ += pack_share_ * pack_cost_;
  pack_cost_ = 0;
  pack_share_ = 0;
}

SweepPace SweepProgress::pace() const {
  const bool is_at_work = pack_cost_ > 0;
  const double seconds =
      seconds_training_ +
      (is_at_work ? std::chrono::duration<double>(Clock::now() - pack_begin_).count() : 0);
  const double done = cost_done_ + pack_share_ * pack_cost_;
  return {seconds > 0 ? done / seconds : 0, pack_cost_, pack_share_};
}

}  // namespace bipo
