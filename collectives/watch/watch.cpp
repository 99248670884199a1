#include "collectives/watch/watch.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <string_view>
#include <system_error>
#include <utility>

#include "collectives/foundation/activity.hpp"
#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kLongestTick = 1;  // second
// Ranks that one rank asks in one tick: a large group is asked in turn.
constexpr std::size_t kMostAsked = 64;
// Seconds of waiting, at most, before the first question.
constexpr double kFirstQuestion = 5;
// Seconds that ranks have at least to start, until they can ask each other.
constexpr double kShortestStart = 60;
// Processor seconds in a tick that show that a process does something.
constexpr double kSignOfWork = 5e-6;

double tick_of(const WatchSettings& settings) {
  const double shortest =
      settings.timeout > 0 ? std::min(settings.timeout, settings.notice) : settings.notice;
  return std::clamp(shortest / 20, 0.01, kLongestTick);
}

double seconds_of(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double processor_seconds_of_others() {
  return seconds_of(CLOCK_PROCESS_CPUTIME_ID) - seconds_of(CLOCK_THREAD_CPUTIME_ID);
}

// One write, so that lines of several ranks do not mix; without standard error nothing is said.
void say(const std::string& text) {
  const char* line_end = has_unfinished_line() ? "\n" : "";
  const std::string line = fmt::format("{}bipo-dist: {}\n", line_end, text);
  [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace

double notice_seconds() {
  const char* text = std::getenv("BIPO_NOTICE");
  const std::string_view digits = text == nullptr ? "" : text;
  double seconds = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), seconds);
  return seconds > 0 ? seconds : WatchSettings().notice;
}

Watch::Watch(WatchSettings settings, std::function<void()> end_job)
    : limits_{settings.timeout, settings.notice, tick_of(settings)}, end_job_(std::move(end_job)) {
  if (::pipe2(wake_, O_CLOEXEC | O_NONBLOCK) != 0) {
    throw EnvironmentError(fmt::format("pipe2 failed: {}", std::generic_category().message(errno)));
  }
  // Signals go to the threads that wait for them.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Watch::~Watch() {
  {
    const std::lock_guard lock(mutex_);
    is_ending_ = true;
  }
  [[maybe_unused]] const ssize_t ignored = ::write(wake_[1], "", 1);
  thread_.join();
  ::close(wake_[0]);
  ::close(wake_[1]);
}

PeerAddress Watch::open(const std::string& host, bool only_this_host) {
  const std::lock_guard lock(mutex_);
  return socket_.open(host, only_this_host);
}

void Watch::meet(std::vector<PeerAddress> peers, int own_rank, const JobSecret& secret) {
  const std::lock_guard lock(mutex_);
  own_rank_ = own_rank;
  const int size = static_cast<int>(peers.size());
  // The next rank, and the next on each other host.
  std::set<std::string> hosts;
  socket_.meet(std::move(peers), own_rank, secret);
  for (int i = 1; i < size; ++i) {
    const int rank = (own_rank + i) % size;
    if (hosts.insert(socket_.host_of(rank)).second) {
      asked_at_start_.insert(rank);
    }
  }
  knows_peers_ = true;
  [[maybe_unused]] const ssize_t ignored = ::write(wake_[1], "", 1);
}

bool Watch::answered(double seconds) {
  const auto deadline = Clock::now() + std::chrono::duration<double>(seconds);
  std::unique_lock lock(mutex_);
  while (!asked_at_start_.empty() && Clock::now() < deadline) {
    for (const int rank : asked_at_start_) {
      socket_.ask(rank);
    }
    has_answered_.wait_for(lock, std::chrono::milliseconds(100),
                           [&] { return asked_at_start_.empty(); });
  }
  return asked_at_start_.empty();
}

void Watch::judge_by_time_alone() {
  const std::lock_guard lock(mutex_);
  can_ask_ = false;
}

int Watch::add_group(std::vector<int> world_ranks) {
  const std::lock_guard lock(mutex_);
  ContentHash hash;
  for (const int rank : world_ranks) {
    hash.add(static_cast<std::uint64_t>(rank));
  }
  hash.add(groups_made_[hash.value()]++);
  const auto free = std::find_if(groups_.begin(), groups_.end(),
                                 [](const Group& group) { return group.key == 0; });
  if (free == groups_.end()) {
    throw BugError(fmt::format("watch: more than {} groups of ranks", kMostGroups));
  }
  *free = {std::move(world_ranks), hash.value()};
  const auto number = free - groups_.begin();
  begun_[static_cast<std::size_t>(number)] = 0;
  return static_cast<int>(number);
}

void Watch::forget(int group) {
  const std::lock_guard lock(mutex_);
  groups_[static_cast<std::size_t>(group)] = {};
}

void Watch::watch_device(int group, std::function<DeviceProgress()> progress) {
  const std::lock_guard lock(mutex_);
  groups_[static_cast<std::size_t>(group)].progress = std::move(progress);
}

void Watch::begin(int group, const char* operation) {
  if (depth_++ > 0) {
    return;
  }
  auto& begun = begun_[static_cast<std::size_t>(group)];
  begun.store(begun.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  group_.store(group, std::memory_order_relaxed);
  operation_.store(operation, std::memory_order_relaxed);
  serial_.store(serial_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
}

void Watch::end() {
  if (--depth_ > 0) {
    return;
  }
  serial_.store(serial_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
}

void Watch::run() {
  auto last = Clock::now();
  while (true) {
    pollfd handles[2] = {{wake_[0], POLLIN, 0}, {-1, POLLIN, 0}};
    {
      const std::lock_guard lock(mutex_);
      if (is_ending_) {
        return;
      }
      handles[1].fd = knows_peers_ ? socket_.handle() : -1;
    }
    const std::chrono::duration<double> passed = Clock::now() - last;
    const double rest = std::max(0.0, limits_.tick - passed.count());
    ::poll(handles, 2, static_cast<int>(rest * 1000) + 1);
    char byte = 0;
    while (::read(wake_[0], &byte, 1) > 0) {
    }
    const std::lock_guard lock(mutex_);
    if (knows_peers_) {
      socket_.receive([&] { return own_status(); },
                      [&](const PeerStatus& status) { hear(status); });
    }
    const auto now = Clock::now();
    const std::chrono::duration<double> since_last = now - last;
    if (since_last.count() >= limits_.tick) {
      last = now;
      // A process that was itself stopped counts one tick.
      tick(std::min(since_last.count(), 2 * limits_.tick));
    }
  }
}

void Watch::tick(double seconds) {
  const double processor = processor_seconds_of_others();
  idle_ = processor - processor_seconds_ >= kSignOfWork ? 0 : idle_ + seconds;
  processor_seconds_ = processor;

  const std::optional<Subject> subject = find_subject(serial_.load(std::memory_order_acquire));
  if (judgement_ && subject != judged_) {
    if (has_told_) {
      say(fmt::format("{} goes on after {}", name_of(own_rank_),
                      duration_text(judgement_->waited())));
    }
    judgement_.reset();
    has_told_ = false;
    idle_ = 0;
  }
  if (!subject) {
    return;
  }
  if (!judgement_) {
    begin_judgement(*subject);
    return;
  }
  judgement_->advance(seconds);
  if (knows_peers_ && judgement_->waited() >= std::min(kFirstQuestion, limits_.notice / 4)) {
    for (const int rank : judgement_->next_to_ask(kMostAsked)) {
      socket_.ask(rank);
    }
  }
  if (judgement_->takes_notice()) {
    report();
  }
  if (judgement_->is_over()) {
    end_late_job();
  }
}

// Returns what this rank waits in; where its main thread does, that.
std::optional<Watch::Subject> Watch::find_subject(std::uint64_t serial) {
  const std::optional<int> on_device = find_oldest_on_devices();
  if (serial % 2 == 1) {
    return Subject{-1, serial};
  }
  return on_device ? std::optional(Subject{*on_device, on_device_.at(*on_device).begun})
                   : std::nullopt;
}

// Asks all groups; returns the one whose operation was asked for first.
std::optional<int> Watch::find_oldest_on_devices() {
  std::optional<int> oldest;
  on_device_.clear();
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    if (!groups_[i].progress || has_ended_job_) {
      continue;
    }
    DeviceProgress progress = groups_[i].progress();
    if (!progress.failure.empty()) {
      end_failed_job(progress.failure);
    }
    if (progress.oldest) {
      const auto asked = progress.oldest->asked;
      const int group = static_cast<int>(i);
      on_device_[group] = std::move(*progress.oldest);
      oldest = oldest && on_device_.at(*oldest).asked <= asked ? oldest : group;
    }
  }
  return oldest;
}

void Watch::begin_judgement(const Subject& subject) {
  if (subject.group_on_device >= 0) {
    judge_operation_on_device(subject.group_on_device);
    judged_ = subject;
    return;
  }
  // What is read belongs to one operation if the serial number is still the same afterwards; else
  // the next tick tries again.
  const int group = group_.load(std::memory_order_acquire);
  const char* operation = operation_.load(std::memory_order_acquire);
  const std::uint64_t begun =
      begun_[static_cast<std::size_t>(group)].load(std::memory_order_acquire);
  if (serial_.load(std::memory_order_relaxed) != subject.number) {
    return;
  }
  WaitLimits limits = limits_;
  if (!knows_peers_ && limits.timeout > 0) {
    limits.timeout = std::max(limits.timeout, kShortestStart);
  }
  judge(limits, group, begun);
  judged_ = subject;
  judged_operation_ = operation;
}

void Watch::judge_operation_on_device(int group) {
  const DeviceOperation& operation = on_device_.at(group);
  WaitLimits limits = limits_;
  if (operation.is_first && limits.timeout > 0) {
    limits.timeout = std::max(limits.timeout, kShortestStart);
  }
  judge(limits, group, operation.begun);
  judged_operation_ = operation.name;
}

void Watch::judge(WaitLimits limits, int group, std::uint64_t begun) {
  const Group& waiting = groups_[static_cast<std::size_t>(group)];
  std::vector<int> others = waiting.ranks;
  std::erase(others, own_rank_);
  judgement_ =
      std::make_unique<WaitJudgement>(limits, own_rank_, std::move(others),
                                      GroupCount{waiting.key, begun}, can_ask_ && knows_peers_);
  judged_timeout_ = limits.timeout;
}

std::string Watch::name_of(int rank) const {
  return knows_peers_ ? fmt::format("rank {} on {}", rank, socket_.host_of(rank)) : "a rank";
}

// Returns the operation and, where it is known, what the run was doing.
std::string Watch::where() const {
  const std::string doing = activity();
  return doing.empty() ? judged_operation_ : fmt::format("{} ({})", judged_operation_, doing);
}

void Watch::report() {
  const std::string reasons =
      judgement_->reasons([&](int rank) { return name_of(rank); }, /*all=*/false);
  if (reasons.empty()) {
    return;
  }
  has_told_ = true;
  const std::string end = judged_timeout_ > 0
                              ? fmt::format("; after {} without progress the job ends (--timeout)",
                                            duration_text(judged_timeout_))
                              : "";
  say(fmt::format("{} has waited {} in {} for {}{}", name_of(own_rank_),
                  duration_text(judgement_->waited()), where(), reasons, end));
}

void Watch::end_late_job() {
  say(fmt::format("{}: no progress for {} (--timeout) in {}, which waits for {}; the job ends here",
                  name_of(own_rank_), duration_text(judged_timeout_), where(),
                  judgement_->reasons([&](int rank) { return name_of(rank); }, /*all=*/true)));
  has_ended_job_ = true;
  limits_.timeout = 0;
  judgement_.reset();
  end_job_();
}

void Watch::end_failed_job(const std::string& failure) {
  has_ended_job_ = true;
  const std::string doing = activity();
  say(fmt::format("{}: {}{}; the job ends here", name_of(own_rank_), failure,
                  doing.empty() ? "" : fmt::format(" ({})", doing)));
  limits_.timeout = 0;
  end_job_();
}

PeerStatus Watch::own_status() {
  PeerStatus status;
  status.rank = own_rank_;
  const std::uint64_t serial = serial_.load(std::memory_order_acquire);
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    status.groups[i] = {groups_[i].key, begun_[i].load(std::memory_order_relaxed)};
  }
  status.activity = activity();
  const bool host_waits = serial % 2 == 1;
  const bool device_waits = judgement_ && judged_.group_on_device >= 0;
  status.waits = host_waits || device_waits;
  if (!status.waits) {
    status.quiet = judgement_ ? 0 : idle_;
  } else if (judgement_ && (host_waits ? judged_ == Subject{-1, serial} : device_waits)) {
    status.quiet = judgement_->quiet();
    status.knows_cause = judgement_->knows_cause();
  }
  return status;
}

void Watch::hear(const PeerStatus& status) {
  if (asked_at_start_.erase(status.rank) > 0) {
    has_answered_.notify_all();
  }
  if (judgement_) {
    judgement_->hear(status);
  }
}

}  // namespace bipo
