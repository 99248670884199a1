#include "experiments/training/run_observer.hpp"

#include <fmt/format.h>

#include <stdlib.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <system_error>

#include "collectives/foundation/errors.hpp"
#include "experiments/progress/stop_signals.hpp"

namespace bipo {
namespace {

// Between two lines about saves that fail.
constexpr std::chrono::minutes kReportInterval{10};

// Gives the reserved room up while a file is written.
class RoomForWriting {
 public:
  explicit RoomForWriting(ReservedSpace& space) : space_(space) { space_.release(); }
  ~RoomForWriting() { space_.take_again(); }
  RoomForWriting(const RoomForWriting&) = delete;
  RoomForWriting& operator=(const RoomForWriting&) = delete;

 private:
  ReservedSpace& space_;
};

}  // namespace

std::filesystem::path rescue_directory(const std::filesystem::path& wanted) {
  if (!wanted.empty()) {
    return wanted;
  }
  std::error_code error;
  const std::filesystem::path found = std::filesystem::temp_directory_path(error);
  return error ? std::filesystem::path("/tmp") : found;
}

std::string evaluation_text(const std::vector<EvalRow>& rows) {
  std::vector<std::string> parts;
  for (const EvalRow& row : rows) {
    parts.push_back(
        fmt::format("{:+g}v {:.1f}% {:+.3f}", row.multiplier, 100 * row.accuracy, row.margin));
  }
  return in_lines(fmt::format("held-out after epoch {}:", rows.front().epoch + 1), parts);
}

RunObserver::RunObserver(Context context, ProgressDisplay& display)
    : context_(std::move(context)), display_(display) {
}

std::int64_t RunObserver::pairs_in_step(std::int64_t step) const {
  const std::int64_t first = step % context_.steps_per_epoch * context_.batch_size;
  return std::min(context_.batch_size, context_.train_pairs - first);
}

StepProgress RunObserver::progress_of(const StepRow& row) const {
  StepProgress progress;
  progress.step = row.step + 1;
  progress.total = context_.total_steps;
  progress.epoch = row.epoch;
  progress.epochs = context_.epochs;
  progress.ends_epoch = progress.step % context_.steps_per_epoch == 0;
  progress.loss = row.loss;
  progress.margin = row.margin;
  progress.accuracy = row.accuracy;
  progress.grad_norm = row.grad_norm;
  progress.vector_norm = row.vector_norm;
  progress.residual_share = row.vector_norm / context_.residual_norm;
  progress.lr = row.lr;
  progress.pairs_per_second = static_cast<double>(pairs_in_step(row.step)) / row.seconds;
  return progress;
}

void RunObserver::log_to(StepLog log, const std::vector<StepRow>& before) {
  log_.emplace(std::move(log));
  log_missing(before);
}

void RunObserver::log_missing(const std::vector<StepRow>& rows) {
  for (auto i = static_cast<std::size_t>(log_->steps()); i < rows.size(); ++i) {
    const std::string failure = log_->add(progress_of(rows[i]), rows[i]);
    if (!failure.empty()) {
      display_.warn(failure);
      return;
    }
  }
}

void RunObserver::on_step(const StepRow& row) {
  display_.step(progress_of(row));
  log_step(row);
}

void RunObserver::log_step(const StepRow& row) {
  if (const std::string failure = log_ ? log_->add(progress_of(row), row) : ""; !failure.empty()) {
    display_.warn(failure);
  }
}

void RunObserver::on_evaluation(const std::vector<EvalRow>& rows) {
  display_.message(evaluation_text(rows));
}

void RunObserver::on_failure(const std::string& reason) {
  throw EnvironmentError(
      fmt::format("{} (the log and the last vector are in {})", reason, context_.out.string()));
}

void RunObserver::on_warning(const std::string& text) {
  display_.warn(text);
}

void RunObserver::save(const TrainingRecord& record, RunStatus status) {
  RunRecord run;
  static_cast<TrainingRecord&>(run) = record;
  run.attributes = context_.attributes;
  run.attributes.status = status;
  run.additions = context_.additions;
  if (status == RunStatus::kComplete && context_.judged_by) {
    verdict_ = judge_run(record, *context_.judged_by);
    run.attributes.verdict = verdict_;
  }
  if (log_ && status == RunStatus::kDiverged) {
    log_missing(record.steps);  // on_step() is not called for the last one
  }
  try {
    write(run);
  } catch (const EnvironmentError& error) {
    if (!holds_claim()) {
      is_superseded_ = true;  // another job took over meanwhile; what is in the way is its file
      return;
    }
    if (context_.is_alone && record.checkpoint.step == 0 && !saved_step_) {
      throw;  // there is nothing to lose
    }
    keep(run);
    failure_ = fmt::format("not saved: {}; {}", error.what(), describe_rescue(run));
    if (context_.is_alone && status != RunStatus::kRunning) {
      throw EnvironmentError(failure_);
    }
    report(status);
  }
}

void RunObserver::report(RunStatus status) {
  const auto now = std::chrono::steady_clock::now();
  if (status != RunStatus::kRunning) {
    // Perhaps on the thread of a stop, while the display belongs to the main thread.
    std::cerr << fmt::format("warning: {}\n", failure_);
  } else if (!last_report_ || now - *last_report_ >= kReportInterval) {
    last_report_ = now;
    display_.warn(failure_);
  }
}

void RunObserver::write(const RunRecord& run) {
  if (!holds_claim()) {
    is_superseded_ = true;
    return;
  }
  require_own_file();
  const RoomForWriting room(context_.space);
  // Asked again when all is written, which can take long.  The file that is written may be there
  // although the writing failed in the end.
  const auto may_replace = [this] {
    check_place();
    return holds_claim();
  };
  const bool is_replaced = write_run_file(context_.out, run, may_replace, &written_);
  if (!is_replaced) {
    is_superseded_ = true;
    return;
  }
  context_.found = written_;
  saved_step_ = run.checkpoint.step;
  forget_rescue();
}

// Throws EnvironmentError where another process has put a file in the place of ours.
void RunObserver::require_own_file() const {
  const std::optional<FileVersion> present = version_of(context_.out);
  if (present && present != context_.found && present != written_) {
    throw EnvironmentError(
        fmt::format("{}: another process wrote this file since this run {} it; it is left as it is",
                    context_.out.string(), saved_step_ ? "saved" : "looked at"));
  }
}

void RunObserver::check_place() const {
  require_own_file();
  if (!context_.found || version_of(context_.out) ||
      !std::filesystem::exists(std::filesystem::absolute(context_.out).parent_path())) {
    return;
  }
  // Not on the display, which belongs to the main thread.
  std::cerr << fmt::format("warning: {}: was removed by another process; it is written again\n",
                           context_.out.string());
}

void RunObserver::keep(const RunRecord& run) {
  if (!rescue_ || rescue_->folder.empty()) {
    rescue_.emplace();
    std::string folder = (context_.rescue_dir / "bipo-dist-rescue-XXXXXX").string();
    if (::mkdtemp(folder.data()) == nullptr) {
      rescue_->failure = fmt::format("{}: {}", context_.rescue_dir.string(),
                                     std::generic_category().message(errno));
      return;
    }
    rescue_->folder = folder;
    rescue_->file = rescue_->folder / context_.out.filename();
  }
  try {
    write_run_file(rescue_->file, run);
    rescue_->failure.clear();
  } catch (const EnvironmentError& error) {
    rescue_->failure = error.what();
  }
}

void RunObserver::forget_rescue() {
  if (rescue_ && !rescue_->folder.empty()) {
    std::error_code ignored;  // a file that remains is harmless
    std::filesystem::remove(rescue_->file, ignored);
    std::filesystem::remove(rescue_->folder, ignored);
  }
  rescue_.reset();
  failure_.clear();
  last_report_.reset();
}

std::string RunObserver::describe_rescue(const RunRecord& run) const {
  if (!rescue_) {
    return "the file of the last save remains";
  }
  if (!rescue_->failure.empty()) {
    return fmt::format("--rescue-dir does not take the state either ({})", rescue_->failure);
  }
  if (run.attributes.status == RunStatus::kComplete) {
    return fmt::format("the complete run is kept: mv '{}' '{}'", rescue_->file.string(),
                       context_.out.string());
  }
  return fmt::format("the state after step {} is kept; to go on from it: mv '{}' '{}', then {}",
                     run.checkpoint.step, rescue_->file.string(), context_.out.string(),
                     context_.continuation);
}

bool RunObserver::stop_requested() const {
  return is_superseded_ || stop_signal_received();
}

}  // namespace bipo
