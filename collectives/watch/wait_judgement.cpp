#include "collectives/watch/wait_judgement.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace bipo {
namespace {

// Questions without an answer, and ticks since the first of them, that make a rank silent.
constexpr int kSilentQuestions = 2;
constexpr double kSilentTicks = 3;
// Ticks for which a rank leaves the end of the job to the one that is to speak first.
constexpr double kCourtesyTicks = 4;
constexpr std::size_t kMostNamed = 8;

}  // namespace

std::string duration_text(double seconds) {
  if (seconds >= 3600) {
    return fmt::format("{:.3g} h", seconds / 3600);
  }
  if (seconds >= 120) {
    return fmt::format("{:.3g} min", seconds / 60);
  }
  return fmt::format("{:.3g} s", seconds);
}

WaitJudgement::WaitJudgement(WaitLimits limits, int own_rank, std::vector<int> others,
                             GroupCount operation, bool can_be_asked)
    : limits_(limits),
      own_rank_(own_rank),
      operation_(operation),
      can_be_asked_(can_be_asked),
      next_notice_(limits.notice) {
  for (const int rank : others) {
    peers_[rank];
  }
}

void WaitJudgement::advance(double seconds) {
  waited_ += seconds;
  for (auto& [rank, peer] : peers_) {
    if (peer.unanswered > 0) {
      peer.since_asked += seconds;
    }
  }
}

std::vector<int> WaitJudgement::next_to_ask(std::size_t most) {
  std::vector<int> ranks;
  if (!can_be_asked_ || peers_.empty()) {
    return ranks;
  }
  auto next = peers_.upper_bound(last_asked_);
  while (ranks.size() < std::min(most, peers_.size())) {
    if (next == peers_.end()) {
      next = peers_.begin();
    }
    ++next->second.unanswered;
    last_asked_ = next->first;
    ranks.push_back(next->first);
    ++next;
  }
  return ranks;
}

void WaitJudgement::hear(const PeerStatus& status) {
  const auto found = peers_.find(status.rank);
  if (found != peers_.end()) {
    found->second = {true, status, 0, 0};
  }
}

PeerSign WaitJudgement::sign_of(int rank) const {
  return sign_of(peers_.at(rank));
}

PeerSign WaitJudgement::sign_of(const Peer& peer) const {
  if (peer.unanswered >= kSilentQuestions && peer.since_asked >= kSilentTicks * limits_.tick) {
    return PeerSign::kSilent;
  }
  if (!peer.is_heard) {
    return PeerSign::kUnknown;
  }
  const auto& groups = peer.last.groups;
  const bool has_arrived = std::any_of(groups.begin(), groups.end(), [&](const GroupCount& group) {
    return group.key == operation_.key && group.begun >= operation_.begun;
  });
  if (has_arrived) {
    return PeerSign::kArrived;
  }
  if (peer.last.waits) {
    return PeerSign::kWaiting;
  }
  return peer.last.quiet >= limits_.notice / 2 ? PeerSign::kIdle : PeerSign::kWorking;
}

double WaitJudgement::quiet_of(const Peer& peer) const {
  switch (sign_of(peer)) {
    case PeerSign::kSilent:
      return peer.since_asked;
    case PeerSign::kIdle:
    case PeerSign::kWorking:
      return peer.last.quiet;
    case PeerSign::kWaiting:
      // Ranks that wait for each other in a circle thus grow quieter and quieter.
      return peer.last.quiet + limits_.tick;
    case PeerSign::kUnknown:
    case PeerSign::kArrived:
      break;
  }
  return 0;
}

bool WaitJudgement::is_missing(const Peer& peer) const {
  return sign_of(peer) != PeerSign::kArrived;
}

double WaitJudgement::quiet() const {
  double most = 0;
  bool is_one_missing = false;
  for (const auto& [rank, peer] : peers_) {
    if (is_missing(peer)) {
      is_one_missing = true;
      most = std::max(most, quiet_of(peer));
    }
  }
  return can_be_asked_ && is_one_missing ? std::min(waited_, most) : waited_;
}

bool WaitJudgement::knows_cause() const {
  return std::any_of(peers_.begin(), peers_.end(), [&](const auto& entry) {
    const PeerSign sign = sign_of(entry.second);
    return sign == PeerSign::kSilent || sign == PeerSign::kIdle ||
           (sign == PeerSign::kWaiting && entry.second.last.knows_cause);
  });
}

bool WaitJudgement::takes_notice() {
  if (waited_ < next_notice_) {
    return false;
  }
  next_notice_ *= 2;
  return true;
}

// The lowest of the ranks that are known to wait in this operation speaks for all of them.
bool WaitJudgement::is_spokesman() const {
  return std::none_of(peers_.begin(), peers_.end(), [&](const auto& entry) {
    return entry.first < own_rank_ && sign_of(entry.second) == PeerSign::kArrived;
  });
}

bool WaitJudgement::is_over() const {
  const double courtesy = is_spokesman() ? 0 : kCourtesyTicks * limits_.tick;
  return limits_.timeout > 0 && quiet() >= limits_.timeout + courtesy;
}

std::string WaitJudgement::description_of(const Peer& peer) const {
  const std::string doing =
      peer.last.activity.empty() ? "" : fmt::format(" ({})", peer.last.activity);
  switch (sign_of(peer)) {
    case PeerSign::kSilent:
      return "no sign of life";
    case PeerSign::kIdle:
      return fmt::format("alive, but without any progress for {}{}", duration_text(peer.last.quiet),
                         doing);
    case PeerSign::kWorking:
      return fmt::format("at work{}", doing);
    case PeerSign::kWaiting:
      return fmt::format("waits for others{}", doing);
    case PeerSign::kUnknown:
    case PeerSign::kArrived:
      break;
  }
  return "";
}

std::string WaitJudgement::reasons(const std::function<std::string(int)>& name_of_rank,
                                   bool all) const {
  if (!all && !is_spokesman()) {
    return "";
  }
  if (!can_be_asked_) {
    return peers_.empty() ? "all ranks" : "another rank, none of which can be asked over UDP";
  }
  std::string text;
  std::size_t named = 0;
  std::size_t missing = 0;
  for (const auto& [rank, peer] : peers_) {
    const std::string description = description_of(peer);
    missing += static_cast<std::size_t>(is_missing(peer));
    const bool is_told_by_itself = sign_of(peer) == PeerSign::kWaiting &&
                                   (peer.last.knows_cause || quiet_of(peer) < limits_.notice / 2);
    if (description.empty() || (!all && is_told_by_itself)) {
      continue;
    }
    if (++named <= kMostNamed) {
      text += fmt::format("{}{}: {}", named > 1 ? "; " : "", name_of_rank(rank), description);
    }
  }
  if (named > kMostNamed) {
    text += fmt::format("; and {} more", named - kMostNamed);
  }
  return missing == 0 ? "the transport: all ranks are in it and alive" : text;
}

}  // namespace bipo
