#include "experiments/sweep_run/sweep_progress.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace bipo {
namespace {

constexpr std::chrono::seconds kInterval{30};

std::size_t count(const std::vector<CellStatus>& status, CellStatus wanted) {
  return static_cast<std::size_t>(std::count(status.begin(), status.end(), wanted));
}

}  // namespace

SweepProgress::SweepProgress(const std::filesystem::path& directory, const SweepPlan& plan,
                             const CellCost& cost, ProgressDisplay& display, bool is_root)
    : cells_(plan.cells), cost_(cost), display_(display) {
  if (is_root) {
    monitor_.emplace(directory, plan);
  }
}

void SweepProgress::tick() {
  if (Clock::now() - last_report_ >= kInterval) {
    report();
  }
}

void SweepProgress::report() {
  last_report_ = Clock::now();
  if (!monitor_) {
    return;
  }
  const std::vector<CellStatus>& status = monitor_->look();
  display_.message(fmt::format("sweep: {} of {} cells done, {} running, {} failed{}",
                               count(status, CellStatus::kComplete), status.size(),
                               count(status, CellStatus::kRunning),
                               count(status, CellStatus::kFailed), remaining_time(status)));
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

// Assumes that all working groups are as fast, and as far with their packs, as this one.
std::string SweepProgress::remaining_time(const std::vector<CellStatus>& status) const {
  double remaining = 0;
  double running = 0;
  for (std::size_t i = 0; i < status.size(); ++i) {
    if (status[i] != CellStatus::kComplete && status[i] != CellStatus::kFailed) {
      remaining += cost_(cells_[i]);
    }
    if (status[i] == CellStatus::kRunning) {
      running += cost_(cells_[i]);
    }
  }
  const bool is_at_work = pack_cost_ > 0;
  const double seconds =
      seconds_training_ +
      (is_at_work ? std::chrono::duration<double>(Clock::now() - pack_begin_).count() : 0);
  const double done = cost_done_ + pack_share_ * pack_cost_;
  if (done <= 0 || seconds <= 0 || remaining <= 0) {
    return "";
  }
  const double groups = is_at_work ? std::max(1.0, running / pack_cost_) : 1;
  const double left = std::max(0.0, remaining - pack_share_ * running);
  return fmt::format(", ETA {}", clock_text(left * seconds / (done * groups)));
}

}  // namespace bipo
