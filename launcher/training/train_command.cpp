#include "launcher/training/train_command.hpp"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <cmath>
#include <iostream>
#include <optional>

#include "experiments/files/atomic_file.hpp"
#include "experiments/files/process_identity.hpp"
#include "experiments/runs/run_file.hpp"
#include "launcher/terminal/progress.hpp"
#include "launcher/terminal/stop_signals.hpp"
#include "launcher/training/prepared_model.hpp"
#include "launcher/training/run_beginning.hpp"
#include "launcher/training/run_observer.hpp"
#include "launcher/training/run_preparation.hpp"
#include "launcher/training/run_settings.hpp"
#include "launcher/training/weight_check.hpp"
#include "trainer/loop/training.hpp"

namespace bipo {
namespace {

// The program's result, on stdout.
void print_result(const TrainingRecord& record, RunStatus status,
                  const std::filesystem::path& out) {
  if (!record.evals.empty()) {
    const EvalRow& last = record.evals.back();
    fmt::print("held-out pairs: {:.0f}, after step {}\n", last.pairs, last.step);
    fmt::print("{:>10}  {:>10}  {:>10}  {:>10}\n", "multiplier", "accuracy %", "margin", "loss");
    for (const EvalRow& row : record.evals) {
      if (row.step == last.step) {
        fmt::print("{:>+10g}  {:>10.1f}  {:>+10.4f}  {:>10.4f}\n", row.multiplier,
                   100 * row.accuracy, row.margin, row.loss);
      }
    }
  }
  fmt::print(
      "{}: {}\n",
      status == RunStatus::kComplete ? "run file" : "interrupted; continue with --resume; run file",
      out.string());
  std::fflush(stdout);
}

int run_prepared(const Preparation& preparation, Session& session) {
  const JobPreparation& job = preparation.job;
  const RunSettings& settings = job.settings;
  const TrainOptions& options = settings.options;
  const bool speaks = session.rank() == 0;
  if (preparation.previous && preparation.previous->attributes.status == RunStatus::kComplete) {
    if (speaks) {
      std::cerr << fmt::format("{}: complete already, nothing to do\n", options.out.string());
      print_result(*preparation.previous, RunStatus::kComplete, options.out);
    }
    return kExitDone;
  }
  at::set_num_threads(static_cast<int>(settings.threads.threads));
  if (options.check_weights) {
    check_weights({&job.inputs}, session);
  }
  install_stop_signals();
  const BatchPlan plan(preparation.plan);

  std::optional<ProgressDisplay> display;
  if (speaks) {
    remove_stale_temps(options.out);
    display.emplace(std::cerr, stderr_environment());
    display->start_table(settings_table(settings, job.inputs, *job.topology));
    for (const std::string& warning : job.warnings) {
      display->message("warning: " + warning);
    }
  }
  const Ranks ranks = session.make_ranks(*job.topology, job.device.is_cuda());
  std::unique_ptr<Decoder> decoder;
  session.together([&] { decoder = load_decoder(job, ranks); });
  const PreparedData data =
      prepare_data(*decoder, job, {{options.layer}, options.eval_every > 0, settings.cache_budget},
                   ranks, display ? &*display : nullptr);

  const double residual_rms = data.train->median_rms(options.layer);
  const double residual_norm =
      residual_rms * std::sqrt(static_cast<double>(job.inputs.config.hidden));
  if (display) {
    display->message(fmt::format("median norm of the residual stream after block {}: {:.4g}",
                                 options.layer, residual_norm));
  }
  RunObserver observer({options.out,
                        run_attributes(settings, job.inputs, *job.topology, session,
                                       preparation.config, preparation.created_utc),
                        plan.total_steps(),
                        plan.steps_per_epoch(),
                        options.epochs,
                        options.batch_size,
                        preparation.plan.pairs,
                        residual_norm,
                        {}},
                       display ? &*display : nullptr);
  TrainingRecord record = preparation.previous
                              ? TrainingRecord(*preparation.previous)
                              : starting_record(job.inputs.config.hidden, options.seed);
  const RunStatus status = train(
      *decoder, *data.train, data.held_out.get(), options.layer,
      {{training_settings(settings, preparation.plan, residual_rms), record, observer}}, ranks);
  if (display) {
    display->finish();
    print_result(record, status, options.out);
  }
  return status == RunStatus::kComplete ? kExitDone : kExitInterrupted;
}

}  // namespace

int run_train_command(const TrainOptions& options, Session& session) {
  const std::string now = session.from_first(utc_text());
  std::optional<Preparation> preparation;
  session.together([&] { preparation = prepare_run(options, now, session); });
  session.expect_same(preparation->agreement, "the run to make");
  return run_prepared(*preparation, session);
}

}  // namespace bipo
