// Watches over the ranks that this one waits for.  A collective operation of MPI waits without end
// for a rank that is stopped, hangs, or has entered another operation; the watch tells the user,
// and ends the job after a time without any progress.
//
// A thread of its own asks the other ranks of the operation's group while this rank waits, and
// answers what others ask, whatever the main thread does: a rank at work is never taken for a
// stopped one.  As long as nobody waits for long, no datagram is sent.
//
// Operations that a device was asked for, and for which the host does not wait, are watched in the
// same way: the oldest one that has not ended counts as a wait of this rank.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
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

// An operation that a device was asked for.
struct DeviceOperation {
  std::uint64_t begun = 0;  // Watch::begun() of its group when it was asked for
  std::string name;         // "an all-reduce of NCCL (number 3, 4096 bytes)"
  std::chrono::steady_clock::time_point asked;
  bool is_first = false;  // of its group: it may take as long as the ranks have to start
};

// How far the operations of a group on a device have come.
struct DeviceProgress {
  std::optional<DeviceOperation> oldest;  // of those that have not ended
  std::string failure;                    // what has failed, "" if nothing has
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

  // Has the watching thread ask, until forget(), how far the group's operations on a device have
  // come.  `progress` must neither wait nor call this object.  A failure ends the job.
  void watch_device(int group, std::function<DeviceProgress()> progress);

  // How many operations of the group this rank has begun; for the thread that computes.
  std::uint64_t begun(int group) const {
    return begun_[static_cast<std::size_t>(group)].load(std::memory_order_relaxed);
  }

 private:
  friend class Waiting;

  struct Group {
    std::vector<int> ranks;
    std::uint64_t key = 0;
    std::function<DeviceProgress()> progress = {};  // of its operations on a device
  };

  // What this rank waits in: an operation of the main thread, or one on the device.
  struct Subject {
    int group_on_device = -1;  // -1: of the main thread
    std::uint64_t number = 0;  // serial number, or that among the group's operations
    bool operator==(const Subject&) const = default;
  };

  void begin(int group, const char* operation);
  void end();

  void run();
  void tick(double seconds);
  std::optional<Subject> find_subject(std::uint64_t serial);
  std::optional<int> find_oldest_on_devices();
  void begin_judgement(const Subject& subject);
  void judge_operation_on_device(int group);
  void judge(WaitLimits limits, int group, std::uint64_t begun);
  void report();
  void end_late_job();
  void end_failed_job(const std::string& failure);
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
  std::unique_ptr<WaitJudgement> judgement_;  // while this rank waits
  Subject judged_;
  std::string judged_operation_;
  double judged_timeout_ = 0;
  bool has_told_ = false;
  std::map<int, DeviceOperation> on_device_;  // the oldest of each group, at the last tick
  bool has_ended_job_ = false;

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
