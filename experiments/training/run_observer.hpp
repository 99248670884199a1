// Connects the training loop to the terminal, the run file and the stop signals.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "experiments/files/atomic_file.hpp"
#include "experiments/progress/progress.hpp"
#include "experiments/runs/run_file.hpp"
#include "experiments/training/run_verdict.hpp"
#include "experiments/training/step_log.hpp"
#include "trainer/loop/training.hpp"

namespace bipo {

// Returns the folder for what cannot be saved: `wanted`, or the system's where that is empty.
std::filesystem::path rescue_directory(const std::filesystem::path& wanted);

// Returns the accuracies and margins of one evaluation as lines of at most kLineWidth.
std::string evaluation_text(const std::vector<EvalRow>& rows);

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
    // Median; of several layers over all of them, as the vector's norm, which is shown as a share.
    double residual_norm = 0;
    ReplaceGuard may_replace;          // whether this process may still write the run file
    RunAdditions additions;            // to keep; null: none
    std::optional<FileVersion> found;  // what was at `out` when the run was prepared
    ReservedSpace space;               // for the run file
    std::filesystem::path rescue_dir;  // takes the last state if `out` does not
    std::string continuation;          // how the user goes on from a run file: "use --resume"
    bool is_alone = false;             // a run whose failures end the job
    std::optional<VerdictSettings> judged_by = {};  // a complete run; empty: it gets no verdict
  };

  // `display` must outlive the observer.
  RunObserver(Context context, ProgressDisplay& display);

  // Logs the steps from now on, and those of `before` that the log lacks.  `log`: on the rank that
  // writes the run file only.
  void log_to(StepLog log, const std::vector<StepRow>& before);

  // Logs a step that on_step() does not show.
  void log_step(const StepRow& row);

  void on_step(const StepRow& row) override;
  void on_evaluation(const std::vector<EvalRow>& rows) override;
  // Throws EnvironmentError: a failure ends a single run.
  void on_failure(const std::string& reason) override;
  void on_warning(const std::string& text) override;
  // A save that fails is reported, and the state is kept in the rescue folder until a later save
  // succeeds; the run continues.  So is a save over a file that another process put in the place
  // of ours.  A lone run throws EnvironmentError where its first or its last save fails.  A save
  // without permission stops the run.
  void save(const TrainingRecord& record, RunStatus status) override;
  bool stop_requested() const override;

  // Returns the step in the file; none before this process's first save.
  std::optional<std::int64_t> saved_step() const { return saved_step_; }

  // Returns what became of the state where the last save failed; else "".
  const std::string& failure() const { return failure_; }

  // Returns the verdict on the complete run, once that was saved; else "".
  const std::string& verdict() const { return verdict_; }

  // Returns whether a save was not permitted.
  bool is_superseded() const { return is_superseded_; }

 private:
  // Keeps the state of a run whose save failed.
  struct Rescue {
    std::filesystem::path folder;
    std::filesystem::path file;
    std::string failure;  // why nothing is kept; empty: the file holds the state
  };

  std::int64_t pairs_in_step(std::int64_t step) const;
  StepProgress progress_of(const StepRow& row) const;
  void log_missing(const std::vector<StepRow>& rows);
  bool holds_claim() const { return !context_.may_replace || context_.may_replace(); }
  void write(const RunRecord& run);
  void require_own_file() const;
  void check_place() const;
  void keep(const RunRecord& run);
  void forget_rescue();
  std::string describe_rescue(const RunRecord& run) const;
  void report(RunStatus status);

  Context context_;
  ProgressDisplay& display_;
  std::optional<StepLog> log_;
  std::optional<std::int64_t> saved_step_;
  FileVersion written_;  // of the last save, also one that failed in its last steps
  bool is_superseded_ = false;
  std::optional<Rescue> rescue_;
  std::string failure_;
  std::string verdict_;
  std::optional<std::chrono::steady_clock::time_point> last_report_;  // of a failure
};

}  // namespace bipo
