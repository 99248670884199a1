// What is left to do of a sweep, taken pack by pack under claims.
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

// A pack to train, and a cell that failed, by itself, to be tried again.
struct PackTask {
  Pack pack;
  bool is_retry = false;
};

struct TakenPack {
  std::size_t task = 0;  // place in the queue's tasks
  std::unique_ptr<Claim> claim;
  PackProgress progress;  // read under the claim; something is left to do
  std::string problem;    // why its files cannot be continued from; empty: they can
};

// One worker's view of a sweep directory, which other workers, of this job and of others, take
// packs from at the same time.  For one thread.
class SweepQueue {
 public:
  using Wanted = std::function<bool(const Pack&)>;

  // The tasks are the packs, in their order, and with `retries_failed` then the cells with a
  // failure on record.  Throws UserError where the files of a pack that nobody works on cannot be
  // continued from.
  SweepQueue(std::filesystem::path directory, const std::vector<Pack>& packs, bool retries_failed);

  const std::vector<PackTask>& tasks() const { return tasks_; }

  // Tasks with something left to do that no live owner has now.  Throws UserError as the
  // constructor.
  std::vector<std::size_t> free_tasks();

  // The first wanted task with something left to do that no live owner has.  None: there is none
  // now.
  std::optional<TakenPack> take(const Wanted& wanted);

  // Whether a task that others hold may still come free, because its owner has given no sign of
  // life since this was first asked.  To be asked, every now and then, when none is free.
  bool may_come_free();

  // Ends the work on a pack: nothing is left to do, or `release` leaves the rest to whoever comes
  // next.  A pack that was finished is not taken again.
  void finish(TakenPack& taken);
  void release(TakenPack& taken);

 private:
  bool is_owned(const PackTask& task) const;
  void mark_done(std::size_t task);
  // Nothing where another worker changes the files at this moment.
  std::optional<PackProgress> look(const PackTask& task) const;

  std::filesystem::path directory_;
  std::vector<PackTask> tasks_;
  std::vector<bool> done_;
  std::map<std::string, std::filesystem::file_time_type> first_seen_;  // renewals, by pack
};

}  // namespace bipo
