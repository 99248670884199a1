// Connects the training loop to the terminal, the run file and the stop signals.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "experiments/progress/progress.hpp"
#include "experiments/runs/run_file.hpp"
#include "trainer/loop/training.hpp"

namespace bipo {

class RunObserver final : public TrainingObserver {
 public:
  struct Context {
    std::filesystem::path out;
    RunAttributes attributes;
    std::int64_t total_steps = 0;
    std::int64_t steps_per_epoch = 0;
    std::int64_t epochs = 0;
    std::int64_t batch_size = 0;
    std::int64_t train_pairs = 0;
    double residual_norm = 0;  // median; the vector is shown as a share of it
    ReplaceGuard may_replace;  // whether this process may still write the run file
    RunAdditions additions;    // to keep; null: none
  };

  // `display` must outlive the observer.
  RunObserver(Context context, ProgressDisplay& display);

  void on_step(const StepRow& row) override;
  void on_evaluation(const std::vector<EvalRow>& rows) override;
  // Throws EnvironmentError: a failure ends a single run.
  void on_failure(const std::string& reason) override;
  // A save that fails in mid-run is reported, and the run continues with the old file; a failure of
  // the last save throws.  A save without permission stops the run.
  void save(const TrainingRecord& record, RunStatus status) override;
  bool stop_requested() const override;

  // Returns the step in the file; none before this process's first save.
  std::optional<std::int64_t> saved_step() const { return saved_step_; }

  // Returns whether a save was not permitted.
  bool is_superseded() const { return is_superseded_; }

 private:
  std::int64_t pairs_in_step(std::int64_t step) const;

  Context context_;
  ProgressDisplay& display_;
  std::optional<std::int64_t> saved_step_;
  bool is_superseded_ = false;
};

}  // namespace bipo
