// Watches over the ranks that this one waits for.  A collective operation of MPI waits without end
// for a rank that is stopped, hangs, or has entered another operation; the watch tells the user,
// and ends the job after a time without any progress.
//
// A thread of its own asks the other ranks of the operation's group while this rank waits, and
// answers what others ask, whatever the main thread does: a rank at work is never taken for a
// stopped one.  As long as nobody waits for long, no datagram is sent.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "collectives/watch/peer_socket.hpp"
#include "collectives/watch/peer_status.hpp"
#include "collectives/watch/wait_judgement.hpp"

namespace bipo {

struct WatchSettings {
  double timeout = 600;  // seconds without progress after which the job ends; 0: never
  double notice = 30;    // seconds of waiting after which the user is told, then after 2, 4, ...
};

// Returns the default notice, or the seconds in the environment's BIPO_NOTICE, which tests set.
double notice_seconds();

class Watch {
 public:
  // Starts the thread.  `end_job` is called on it, once, and need not return; before that the
  // reason is printed.
  Watch(WatchSettings settings, std::function<void()> end_job);
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
  ~Watch();

  // The three steps in which ranks get to know each other: each opens its socket, all exchange the
  // addresses, and each asks some others, one on every host.  answered() returns whether all of
  // them have answered within `seconds`; where a rank has not, all must call judge_by_time_alone():
  // from then on nobody is asked, and a rank at work is not told from a stopped one.
  PeerAddress open(const std::string& host, bool only_this_host);
  void meet(std::vector<PeerAddress> peers, int own_rank, const JobSecret& secret);
  bool answered(double seconds);
  void judge_by_time_alone();

  // Makes a group of world ranks known; all of them do so, in the same order if they share several.
  // Returns the number by which Waiting names it, until forget().
  int add_group(std::vector<int> world_ranks);
  void forget(int group);

 private:
  friend class Waiting;

  struct Group {
    std::vector<int> ranks;
    std::uint64_t key = 0;
  };

  void begin(int group, const char* operation);
  void end();

  void run();
  void tick(double seconds);
  void begin_judgement(std::uint64_t serial);
  void report();
  void end_late_job();
  PeerStatus own_status();
  void hear(const PeerStatus& status);
  std::string name_of(int rank) const;
  std::string where() const;

  WaitLimits limits_;
  std::function<void()> end_job_;

  // Written by the thread that computes, read by the watching one: the serial number of the
  // operation is odd while it lasts.
  std::atomic<std::uint64_t> serial_{0};
  std::atomic<int> group_{0};
  std::atomic<const char*> operation_{""};
  std::array<std::atomic<std::uint64_t>, kMostGroups> begun_{};
  int depth_ = 0;  // of operations inside of others, for the thread that computes

  // What follows belongs to the mutex.
  std::mutex mutex_;
  std::condition_variable has_answered_;
  std::set<int> asked_at_start_;
  std::array<Group, kMostGroups> groups_;
  std::map<std::uint64_t, std::uint64_t> groups_made_;  // by the hash of their ranks
  PeerSocket socket_;
  int own_rank_ = 0;
  bool knows_peers_ = false;
  bool can_ask_ = true;
  bool is_ending_ = false;
  double idle_ = 0;                           // seconds, see PeerStatus::quiet
  double processor_seconds_ = 0;              // at the last tick, without this thread's
  std::unique_ptr<WaitJudgement> judgement_;  // while the main thread waits
  std::uint64_t judged_ = 0;                  // its serial number
  const char* judged_operation_ = "";
  double judged_timeout_ = 0;
  bool has_told_ = false;

  int wake_[2] = {-1, -1};  // a pipe
  std::thread thread_;
};

// While it lives, this rank waits in an operation of `group`, or may: it costs some nanoseconds.
// `operation` is a literal such as "an all-reduce".  Inside of another one it belongs to that.
// Without a watch it does nothing.
class Waiting {
 public:
  Waiting(Watch* watch, int group, const char* operation) : watch_(watch) {
    if (watch_ != nullptr) {
      watch_->begin(group, operation);
    }
  }
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;
  ~Waiting() {
    if (watch_ != nullptr) {
      watch_->end();
    }
  }

 private:
  Watch* watch_;
};

}  // namespace bipo
