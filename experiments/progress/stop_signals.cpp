#include "experiments/progress/stop_signals.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "collectives/foundation/activity.hpp"

namespace bipo {
namespace {

constexpr int kSignals[] = {SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGUSR1};

// How long a second SIGINT lets a save under way go on.
constexpr std::chrono::seconds kPatience{2};

enum class Reaction { kEnds, kWaitsToEnd, kSaves, kIsAsked };

// What the threads share.
struct Shared {
  std::mutex mutex;  // held while `action` runs, so that whoever replaces it waits
  Reaction reaction = Reaction::kEnds;
  std::function<void()> action;
  std::function<void()> farewell;  // before the process ends at once
  int exit_code = 1;

  std::mutex done_mutex;
  std::condition_variable done;
  bool is_saved = false;  // or there was nothing to save
};

std::atomic<bool> received{false};

// Lives as long as the threads that use it, which is as long as the process.
Shared& shared() {
  static auto* const instance = new Shared;
  return *instance;
}

const char* name_of(int signal) {
  switch (signal) {
    case SIGTERM:
      return "SIGTERM";
    case SIGINT:
      return "SIGINT";
    case SIGHUP:
      return "SIGHUP";
    case SIGPIPE:
      return "SIGPIPE";
    default:
      return "SIGUSR1";
  }
}

// Returns this process's place among those of its job, as the launcher says it: a signal may come
// before MPI is initialised.
int launched_rank() {
  const char* text = std::getenv("PMIX_RANK");
  const std::string_view digits = text == nullptr ? "" : text;
  int rank = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), rank);
  return rank;
}

// The launcher sends a signal to all ranks, of which the first alone speaks; a signal of another
// sender may have come to this rank only.
bool speaks_for(const siginfo_t& signal) {
  return launched_rank() == 0 || (signal.si_code <= 0 && signal.si_pid != ::getppid());
}

// Prints a line, unless that would make this thread wait for a reader.
void say(const std::string& text) {
  pollfd ready{STDERR_FILENO, POLLOUT, 0};
  if (::poll(&ready, 1, 0) != 1 || (ready.revents & POLLOUT) == 0) {
    return;
  }
  const char* line_end = has_unfinished_line() ? "\n" : "";
  const std::string rank = launched_rank() == 0 ? "" : fmt::format("rank {}: ", launched_rank());
  const std::string line = fmt::format("{}bipo-dist: {}{}\n", line_end, rank, text);
  [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, line.data(), line.size());
}

// Returns whether the action, if there is one, succeeded.
bool act(const std::function<void()>& action, const char* failed) {
  try {
    if (action) {
      action();
    }
    return true;
  } catch (const std::exception& error) {
    say(fmt::format("{}: {}", failed, error.what()));
    return false;
  }
}

[[noreturn]] void end_process(Shared& state) {
  act(state.action, "not cleaned up at the signal");
  act(state.farewell, "not cleaned up at the signal");
  ::_exit(state.exit_code);
}

void save(Shared& state) {
  bool succeeded = false;
  {
    const std::lock_guard lock(state.mutex);
    succeeded = state.reaction != Reaction::kSaves || act(state.action, "not saved at the signal");
  }
  const std::lock_guard lock(state.done_mutex);
  state.is_saved = succeeded;
  state.done.notify_all();
}

constexpr const char* kEndsNow =
    "ends now; there is nothing to save yet, and the same command starts again";

void begin_stop(Shared& state, const siginfo_t& signal) {
  std::unique_lock lock(state.mutex);
  const auto report = [&](const char* what_follows) {
    if (speaks_for(signal)) {
      say(fmt::format("{}: {}", name_of(signal.si_signo), what_follows));
    }
  };
  switch (state.reaction) {
    case Reaction::kEnds:
      report(kEndsNow);
      end_process(state);
    case Reaction::kWaitsToEnd:
      report(kEndsNow);
      break;
    case Reaction::kSaves:
      report("saves the last completed step now, and stops after the step in progress");
      break;
    case Reaction::kIsAsked:
      report("stops after the work in progress");
      break;
  }
  lock.unlock();
  std::thread([&state] { save(state); }).detach();
}

// Ends the process as the user wants who asks for the second time.
[[noreturn]] void end_impatiently(Shared& state) {
  say("SIGINT again: ends now");
  std::unique_lock lock(state.done_mutex);
  if (state.done.wait_for(lock, kPatience, [&] { return state.is_saved; })) {
    ::_exit(state.exit_code);
  }
  std::signal(SIGINT, SIG_DFL);
  sigset_t interrupt;
  sigemptyset(&interrupt);
  sigaddset(&interrupt, SIGINT);
  pthread_sigmask(SIG_UNBLOCK, &interrupt, nullptr);
  ::raise(SIGINT);
  ::_exit(state.exit_code);
}

void wait_for_signals(Shared& state, const sigset_t& signals) {
  while (true) {
    siginfo_t signal{};
    if (::sigwaitinfo(&signals, &signal) < 0) {
      continue;  // a debugger interrupted it
    }
    if (!received.exchange(true)) {
      begin_stop(state, signal);
    } else if (signal.si_signo == SIGINT) {
      end_impatiently(state);
    }
  }
}

bool is_ignored(int signal) {
  struct sigaction action {};
  return sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

void react(Reaction reaction, std::function<void()> action) {
  Shared& state = shared();
  const std::lock_guard lock(state.mutex);
  state.reaction = reaction;
  state.action = std::move(action);
  if (reaction == Reaction::kEnds && received) {
    end_process(state);
  }
}

}  // namespace

void hear_stop_signals(int exit_code) {
  Shared& state = shared();
  state.exit_code = exit_code;
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : kSignals) {
    // The kernel keeps a blocked signal even where it is ignored: sigwaitinfo() would return it.
    if ((signal != SIGHUP && signal != SIGPIPE) || !is_ignored(signal)) {
      sigaddset(&signals, signal);
    }
  }
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([&state, signals] { wait_for_signals(state, signals); }).detach();
}

void stop_when_asked() {
  react(Reaction::kIsAsked, {});
}

bool stop_signal_received() {
  return received;
}

EndAtOnce::EndAtOnce(std::function<void()> clean_up) {
  react(Reaction::kEnds, std::move(clean_up));
}

EndAtOnce::~EndAtOnce() {
  react(Reaction::kIsAsked, {});
}

EndLater::EndLater() {
  react(Reaction::kWaitsToEnd, {});
}

EndLater::~EndLater() {
  react(Reaction::kEnds, {});
}

BeforeEnd::BeforeEnd(std::function<void()> farewell) {
  const std::lock_guard lock(shared().mutex);
  shared().farewell = std::move(farewell);
}

BeforeEnd::~BeforeEnd() {
  const std::lock_guard lock(shared().mutex);
  shared().farewell = {};
}

SaveAtStop::SaveAtStop(std::function<void()> save) {
  react(Reaction::kSaves, std::move(save));
}

SaveAtStop::~SaveAtStop() {
  react(Reaction::kIsAsked, {});
}

}  // namespace bipo
