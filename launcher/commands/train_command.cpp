// The command `train`: trains one steering vector, or one for each of several layers jointly, and
// writes one run file.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "experiments/files/atomic_file.hpp"
#include "experiments/job/job.hpp"
#include "experiments/progress/stop_signals.hpp"
#include "experiments/runs/run_file.hpp"
#include "experiments/training/prepared_model.hpp"
#include "experiments/training/run_observer.hpp"
#include "experiments/training/run_preparation.hpp"
#include "experiments/training/run_record.hpp"
#include "experiments/training/step_log.hpp"
#include "experiments/training/training_inputs.hpp"
#include "launcher/bench/bench.hpp"
#include "launcher/commands/commands.hpp"
#include "launcher/commands/output_claims.hpp"
#include "trainer/loop/training.hpp"
#include "trainer/records/best_epoch.hpp"

namespace bipo {
namespace {

// Says what ended a complete run early and which vector it ends with, where that is not its last.
std::string end_text(const TrainingRecord& record, RunStatus status, const TrainOptions& options,
                     std::int64_t steps) {
  const auto best = best_epoch(record.evals);
  if (status != RunStatus::kComplete || !best) {
    return "";
  }
  std::string text;
  if (record.checkpoint.step < steps) {
    text += fmt::format(
        "ended after epoch {} of {}: no larger held-out margin in {} evaluations (--patience); the "
        "best epoch is {}\n",
        record.evals.back().epoch + 1, options.epochs, evaluations_since_best(record.evals),
        best->epoch + 1);
  }
  if (options.select == Select::kBest) {
    text += fmt::format("vector: that of epoch {}, the best: held-out margin {:+.4f}\n",
                        best->epoch + 1, best->margin);
  }
  return text;
}

// Prints the program's result to stdout.  `steps`: of the plan.  `verdict`: of the complete run.
void print_result(const TrainingRecord& record, RunStatus status, const TrainOptions& options,
                  std::int64_t steps, const std::string& verdict) {
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
  fmt::print("{}", end_text(record, status, options, steps));
  fmt::print(
      "{}: {}\n",
      status == RunStatus::kComplete ? "run file" : "interrupted; continue with --resume; run file",
      options.out.string());
  if (verdict.starts_with(kWeakVerdict)) {
    fmt::print("{}\n", verdict);
  }
}

// Returns nothing where no log is wanted.
std::optional<StepLog> open_log(const RunPreparation& run) {
  const TrainOptions& options = run.job.options;
  if (options.log_jsonl.empty()) {
    return std::nullopt;
  }
  ExistingLog existing = ExistingLog::kRefuse;
  if (options.resume) {
    existing = ExistingLog::kContinue;
  } else if (options.overwrite) {
    existing = ExistingLog::kReplace;
  }
  return StepLog(options.log_jsonl, existing,
                 run.previous ? run.previous->steps : std::vector<StepRow>());
}

ReservedSpace reserve_run_file(const RunPreparation& run) {
  const TrainingInputs& inputs = run.job.inputs;
  return {run.job.options.out, run_file_bytes(run.job.options, BatchPlan(run.plan),
                                              run.job.options.layer.count() * inputs.config.hidden,
                                              static_cast<std::int64_t>(inputs.test.size()))};
}

// Shows what the ranks are about to do.
void show_overview(const RunPreparation& run, Job& job) {
  for (const std::string& line : run.job.inputs.overview) {
    job.display().message(line);
  }
}

// Shows the run with its plan, and starts nothing.
int show_run(const TrainOptions& options, Job& job) {
  const RunPreparation run = job.prepare(
      [&] { return prepare_run(options, job.begin_utc(), job.session()); }, "the run to make");
  const JobPreparation& prepared = run.job;
  job.show(prepared.computation,
           run_table(prepared.options, prepared, prepared.computation.topology), prepared.warnings,
           prepared.inputs.notes);
  show_overview(run, job);
  if (run.previous) {
    job.display().message(
        run.previous->attributes.status == RunStatus::kComplete
            ? fmt::format("{}: complete already, nothing to do", options.out.string())
            : fmt::format("{}: goes on from step {}", options.out.string(),
                          run.previous->checkpoint.step));
  }
  job.session().together([&] {
    if (job.is_root()) {
      fmt::print("{}", planned_cost(prepared, job.session().local_size()));
    }
  });
  return kExitDone;
}

std::string residual_text(const SteeredLayers& layers, const std::vector<double>& norms) {
  std::vector<std::string> numbers;
  for (const double norm : norms) {
    numbers.push_back(fmt::format("{:.4g}", norm));
  }
  return fmt::format("median norm of the residual stream {} block{} {}: {}",
                     layers.site() == Site::kBlock ? "after" : "before",
                     layers.count() == 1 ? "" : "s", to_string(layers), fmt::join(numbers, ", "));
}

// `claims`: on --out.
int run_prepared(const RunPreparation& run, OutputClaims& claims, Job& job) {
  Session& session = job.session();
  const TrainOptions& options = run.job.options;
  const TrainingInputs& inputs = run.job.inputs;
  if (job.is_root()) {
    remove_stale_temps(options.out);
  }
  ReservedSpace space;
  std::optional<StepLog> log;
  session.together([&] {
    if (job.is_root()) {
      space = reserve_run_file(run);
      log = open_log(run);
    }
  });
  const Ranks ranks =
      job.begin(run.job.computation, run_table(options, run.job, run.job.computation.topology),
                run.job.warnings, inputs.notes);
  show_overview(run, job);
  if (options.check_weights) {
    check_weights({&inputs}, session);
  }
  std::unique_ptr<Decoder> decoder;
  session.together([&] { decoder = load_decoder(run.job, ranks); });
  const PreparedData data = prepare_data(*decoder, run.job,
                                         {{options.layer.lowest()},
                                          options.eval_every > 0,
                                          options.cache_budget.value(),
                                          uses_reference(options.objective)},
                                         ranks, job.display());

  const SteeredLayers layers = steered_layers(options);
  const std::vector<double> residual_rms =
      median_rms_of_layers(*decoder, *data.train, layers, ranks);
  const std::vector<double> norms = residual_norms(residual_rms, inputs.config.hidden);
  job.display().message(residual_text(layers, norms));
  const BatchPlan plan(run.plan);
  RunObserver observer(
      {options.out, run_attributes(options, run.job, session, run.config, run.created_utc),
       plan.total_steps(), plan.steps_per_epoch(), options.epochs, options.batch_size,
       run.plan.pairs, vector_norm(norms),
       job.is_root() ? ReplaceGuard([&claims] { return claims.are_mine(); }) : ReplaceGuard(),
       run.previous ? run.previous->additions : nullptr, run.found, std::move(space),
       rescue_directory(options.rescue_dir), "the same command with --resume", /*is_alone=*/true,
       verdict_settings(options, inputs.test, comparable_norms(options, inputs.config, norms),
                        plan.total_steps())},
      job.display());
  if (log) {
    observer.log_to(*std::move(log), run.previous ? run.previous->steps : std::vector<StepRow>());
  }
  TrainingRecord record = run.previous ? TrainingRecord(*run.previous)
                                       : new_record(options, inputs.config.hidden, norms.front());
  if (!run.start.empty()) {
    record.checkpoint.vector = run.start;
  }
  LastStep last_step;
  std::optional<SaveAtStop> at_stop;
  if (job.is_root()) {
    at_stop.emplace([&] {
      last_step.save();
      claims.offer();
    });
  }
  const RunStatus status =
      train(*decoder, *data.train, data.held_out.get(), layers,
            {{training_settings(options, run.plan, residual_rms, inputs.config), record, observer}},
            ranks, last_step);
  at_stop.reset();
  job.display().finish();
  session.together([&] {
    if (observer.is_superseded() && !stop_signal_received()) {
      throw EnvironmentError(fmt::format(
          "--out {}: another job took it over, which continues this run", options.out.string()));
    }
  });
  if (job.is_root()) {
    print_result(record, status, options, plan.total_steps(), observer.verdict());
  }
  return status == RunStatus::kComplete ? kExitDone : kExitInterrupted;
}

}  // namespace

int run_train_command(const TrainOptions& options, Session& session) {
  Job job(session, options);
  if (options.dry_run) {
    return show_run(options, job);
  }
  session.together([&] {
    if (job.is_root()) {
      check_replaceable(options.out);
    }
  });
  // Before the file is read, so that what is read is what no other job changes.
  OutputClaims claims(job, {options.out}, [] {});
  const RunPreparation run = job.prepare(
      [&] { return prepare_run(options, job.begin_utc(), session); }, "the run to make");
  if (run.previous && run.previous->attributes.status == RunStatus::kComplete) {
    if (job.is_root()) {
      std::cerr << fmt::format("{}: complete already, nothing to do\n", options.out.string());
      print_result(*run.previous, RunStatus::kComplete, options, BatchPlan(run.plan).total_steps(),
                   run.previous->attributes.verdict);
    }
    return kExitDone;
  }
  return run_prepared(run, claims, job);
}

}  // namespace bipo
