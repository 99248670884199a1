#include "experiments/training/run_observer.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "collectives/foundation/errors.hpp"
#include "experiments/progress/stop_signals.hpp"

namespace bipo {

RunObserver::RunObserver(Context context, ProgressDisplay& display)
    : context_(std::move(context)), display_(display) {
}

std::int64_t RunObserver::pairs_in_step(std::int64_t step) const {
  const std::int64_t first = step % context_.steps_per_epoch * context_.batch_size;
  return std::min(context_.batch_size, context_.train_pairs - first);
}

void RunObserver::on_step(const StepRow& row) {
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
  display_.step(progress);
}

void RunObserver::on_evaluation(const std::vector<EvalRow>& rows) {
  std::string text = fmt::format("held-out pairs after epoch {}:", rows.front().epoch + 1);
  for (const EvalRow& row : rows) {
    text += fmt::format("  {:+g}v accuracy {:.1f} % margin {:+.3f}", row.multiplier,
                        100 * row.accuracy, row.margin);
  }
  display_.message(text);
}

void RunObserver::on_failure(const std::string& reason) {
  throw EnvironmentError(
      fmt::format("{} (the log and the last vector are in {})", reason, context_.out.string()));
}

void RunObserver::save(const TrainingRecord& record, RunStatus status) {
  RunRecord run;
  static_cast<TrainingRecord&>(run) = record;
  run.attributes = context_.attributes;
  run.attributes.status = status;
  run.additions = context_.additions;
  try {
    if (write_run_file(context_.out, run, context_.may_replace)) {
      saved_step_ = record.checkpoint.step;
    } else {
      is_superseded_ = true;
    }
  } catch (const EnvironmentError& error) {
    if (status != RunStatus::kRunning) {
      throw;
    }
    display_.warn(fmt::format("not saved; the file of the last save remains: {}", error.what()));
  }
}

bool RunObserver::stop_requested() const {
  return is_superseded_ || stop_signal_received();
}

}  // namespace bipo
