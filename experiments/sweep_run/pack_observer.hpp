// Connects the training loop to the members of a pack: each has its run file, all have one
// checkpoint.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <string>

#include "experiments/files/atomic_file.hpp"
#include "experiments/progress/progress.hpp"
#include "experiments/sweeps/pack_checkpoint.hpp"
#include "experiments/training/run_observer.hpp"
#include "trainer/loop/training.hpp"

namespace bipo {

// Commits a pack to a step when the run files of all its members that have not failed hold that
// step; with the last run file of a complete pack the checkpoint has served and goes.  A pack of
// one member needs none: its run file is its checkpoint.
class PackSaver {
 public:
  // `active`: the members' cells that train, of a pack of `pack_size`.  `display` must
  // outlive the saver.
  PackSaver(std::filesystem::path path, std::size_t pack_size, std::set<std::string> active,
            ReplaceGuard may_replace, ProgressDisplay& display);

  // To be called for each active member in turn, with its state if that is in its run file.  A
  // commit that fails in mid-run is reported, and the former one stands; the last one throws.
  void after_save(const std::string& member, std::optional<Checkpoint> saved, RunStatus status);

  // The others' commits go on without it.
  void drop(const std::string& member);

 private:
  void commit(RunStatus status);
  void warn(const std::string& text);

  std::filesystem::path path_;
  std::size_t pack_size_;
  std::set<std::string> active_;
  ReplaceGuard may_replace_;
  std::set<std::string> asked_;  // members of the round of saves under way
  PackCheckpoint saved_;
  ProgressDisplay& display_;
};

// One member's observer.
class PackObserver final : public TrainingObserver {
 public:
  struct Context {
    std::string member;  // the cell's name
    // Its run file holds the end already and stays as it is: the member only trains along, so that
    // the others, which a kill kept from their last save, become what they would have become.
    bool is_complete = false;
    // Called on every rank for a member that failed, and for each step and evaluation of all of
    // them: the first that goes on speaks for the pack.
    std::function<void(const std::string& reason)> on_failure;
    std::function<bool()> is_reporter;
    std::function<void(const StepRow& row)> on_step;
  };

  // `run` and `saver` must outlive the observer.
  PackObserver(Context context, RunObserver& run, PackSaver& saver);

  void on_step(const StepRow& row) override;
  void on_evaluation(const std::vector<EvalRow>& rows) override;
  void on_failure(const std::string& reason) override;
  void save(const TrainingRecord& record, RunStatus status) override;
  bool stop_requested() const override { return run_.stop_requested(); }

 private:
  Context context_;
  RunObserver& run_;
  PackSaver& saver_;
};

}  // namespace bipo
