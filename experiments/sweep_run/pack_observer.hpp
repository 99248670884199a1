// Connects the training loop to the members of a pack: each member has a run file, all share one
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

// Commits a pack to a step when the run files of all members that have not failed hold that step;
// removes the checkpoint after the last run file of a complete pack.  A pack of one member needs no
// checkpoint: its run file serves as one.
class PackSaver {
 public:
  // `active`: cells of the members that train, in a pack of `pack_size`.  `display` must outlive
  // the saver.
  PackSaver(std::filesystem::path path, std::size_t pack_size, std::set<std::string> active,
            ReplaceGuard may_replace, ProgressDisplay& display);

  // Must be called for each active member in turn, with its state if that is in its run file.  A
  // commit that fails is reported, and the previous one remains valid.
  void after_save(const std::string& member, std::optional<Checkpoint> saved, RunStatus status);

  // Returns why the last commit failed, "" where it did not.
  const std::string& failure() const { return failure_; }

  // Lets the commits of the other members continue without this one.
  void drop(const std::string& member);

 private:
  void commit(RunStatus status);
  void warn(const std::string& text);

  std::filesystem::path path_;
  std::size_t pack_size_;
  std::set<std::string> active_;
  ReplaceGuard may_replace_;
  std::set<std::string> asked_;  // members seen in the current round of saves
  PackCheckpoint saved_;
  std::string failure_;
  ProgressDisplay& display_;
};

// One member's observer.
class PackObserver final : public TrainingObserver {
 public:
  struct Context {
    std::string member;  // the cell's name
    // The member's run file is complete and stays unchanged: the member trains along only, so that
    // members whose last save a kill prevented reach their intended result.
    bool is_complete = false;
    // Called on every rank: on_failure for a member that failed, on_early_end for one that was
    // complete before the others, on_step for the steps of the pack.  is_reporter is true for the
    // first member that continues: it reports for the pack.
    std::function<void(const std::string& reason)> on_failure;
    std::function<void()> on_early_end;
    std::function<bool()> is_reporter;
    std::function<void(const StepRow& row)> on_step;
  };

  // `run` and `saver` must outlive the observer.
  PackObserver(Context context, RunObserver& run, PackSaver& saver);

  void on_step(const StepRow& row) override;
  void on_evaluation(const std::vector<EvalRow>& rows) override;
  void on_failure(const std::string& reason) override;
  // A member that is not in its file stays part of the pack's commits, which then end: the pack
  // continues from the last one.
  void on_early_end() override;
  void on_warning(const std::string& text) override;
  void save(const TrainingRecord& record, RunStatus status) override;
  bool stop_requested() const override { return run_.stop_requested(); }

 private:
  Context context_;
  RunObserver& run_;
  PackSaver& saver_;
  bool is_saved_ = false;  // the last save reached the file
};

}  // namespace bipo
