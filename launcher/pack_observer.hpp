// Connects the training loop to the members of a pack: each has its run file, all have one
// checkpoint.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "experiments/pack_checkpoint.hpp"
#include "launcher/progress.hpp"
#include "launcher/run_observer.hpp"
#include "trainer/training.hpp"

namespace bipo {

// Commits a pack to a step when the run files of all its members hold that step; with the last run
// file of a complete pack the checkpoint has served and goes.  A pack of one member needs none:
// its run file is its checkpoint.
class PackSaver {
 public:
  // `names` [M] of the members' cells.  `display` is null on ranks that stay silent; it must
  // outlive the saver.
  PackSaver(std::filesystem::path path, std::vector<std::string> names, ProgressDisplay* display);

  // To be called for each member in turn, with its state if that is in its run file.  A commit that
  // fails in mid-run is reported, and the former one stands; the last one throws.
  void after_save(std::size_t member, std::optional<Checkpoint> saved, RunStatus status);

 private:
  void commit(RunStatus status);
  void warn(const std::string& text);

  std::filesystem::path path_;
  PackCheckpoint saved_;
  ProgressDisplay* display_;
};

// One member's observer.  The first speaks for all: their steps come at the same time.
class PackObserver final : public TrainingObserver {
 public:
  // `run` and `saver` must outlive the observer.
  PackObserver(std::size_t member, RunObserver& run, PackSaver& saver)
      : member_(member), run_(run), saver_(saver) {}

  void on_step(const StepRow& row) override;
  void on_evaluation(const std::vector<EvalRow>& rows) override;
  void save(const TrainingRecord& record, RunStatus status) override;
  bool stop_requested() const override { return run_.stop_requested(); }

 private:
  std::size_t member_;
  RunObserver& run_;
  PackSaver& saver_;
};

}  // namespace bipo
