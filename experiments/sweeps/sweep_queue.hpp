// The work left in a sweep, taken pack by pack under claims.
#pragma once

#include <chrono>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "experiments/sweeps/claims.hpp"
#include "experiments/sweeps/sweep_directory.hpp"
#include "experiments/sweeps/sweep_plan.hpp"

namespace bipo {

// A pack to train, or a failed cell, by itself, to be tried again.
struct PackTask {
  Pack pack;
  bool is_retry = false;
};

struct TakenPack {
  std::size_t task = 0;  // index in the queue's tasks
  std::unique_ptr<Claim> claim;
  PackProgress progress;           // read under the claim; work is left
  std::string problem;             // why training cannot continue from its files; empty: it can
  std::vector<std::string> notes;  // what was set aside of them
};

// One worker's view of a sweep directory, from which other workers, of this job and of others, take
// packs at the same time.  For one thread.
class SweepQueue {
 public:
  using Wanted = std::function<bool(const Pack&)>;

  // The tasks are the packs, in their order, then with `retries_failed` the cells with a recorded
  // failure.
  SweepQueue(std::filesystem::path directory, const std::vector<Pack>& packs, bool retries_failed);

  const std::vector<PackTask>& tasks() const { return tasks_; }

  // Returns the tasks with work left that no live owner holds; so has a pack with damaged files.
  std::vector<std::size_t> free_tasks();

  // Claims the first wanted task with work left that no live owner holds; nothing if there is none
  // now.  Sets damaged files of the pack aside.
  std::optional<TakenPack> take(const Wanted& wanted);

  // Returns whether a task that others hold may still become free, because its owner has not
  // renewed its claim since the first call.  Call it repeatedly while no task is free.
  bool may_come_free();

  // Ends the work on a pack: finish() where none is left, after which it is not taken again, or
  // release() to leave the rest to the next taker.
  void finish(TakenPack& taken);
  void release(TakenPack& taken);

  // Leaves the rest to others, and to the next start of the sweep.
  void give_up(TakenPack& taken);

 private:
  bool is_owned(const PackTask& task) const;
  void mark_done(std::size_t task);
  void read_files(TakenPack& taken) const;
  // Returns nothing where another worker is changing the files.
  std::optional<PackProgress> look(const PackTask& task) const;

  std::filesystem::path directory_;
  std::vector<PackTask> tasks_;
  std::vector<bool> done_;
  std::map<std::string, std::filesystem::file_time_type> first_seen_;  // renewals, by pack
};

}  // namespace bipo
