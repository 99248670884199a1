// The command `sweep`: trains one vector for every combination of the axes, on groups of ranks.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "experiments/files/atomic_file.hpp"
#include "experiments/files/trial_process.hpp"
#include "experiments/job/job.hpp"
#include "experiments/progress/stop_signals.hpp"
#include "experiments/progress/terminal.hpp"
#include "experiments/settings/earlier_defaults.hpp"
#include "experiments/settings/stored_settings.hpp"
#include "experiments/settings/template_dates.hpp"
#include "experiments/settings/warmup.hpp"
#include "experiments/sweep_run/sweep_preparation.hpp"
#include "experiments/sweep_run/sweep_progress.hpp"
#include "experiments/sweep_run/sweep_run.hpp"
#include "experiments/sweeps/sweep_directory.hpp"
#include "experiments/sweeps/sweep_queue.hpp"
#include "experiments/training/run_record.hpp"
#include "experiments/training/training_inputs.hpp"
#include "launcher/commands/commands.hpp"
#include "launcher/commands/sweep_summary.hpp"
#include "launcher/light/json_output.hpp"

namespace bipo {
namespace {

// Shows the start-up table of the first cell.
void show_start(const SweepPreparation& sweep, Job& job) {
  const SweepPlan& plan = sweep.plan;
  const Cell& first = plan.packs.front().members.front();
  const JobPreparation& inputs = sweep.inputs[inputs_of(sweep, first)].job;
  job.show(inputs.computation, run_table(cell_options(sweep, first), inputs, sweep.topology),
           sweep.warnings(), sweep.notes());
  job.display().message(fmt::format("sweep of {} cells in {} packs, the first of them above, in {}",
                                    plan.cells.size(), plan.packs.size(),
                                    sweep.options.out.string()));
}

// Prints the program's result to stdout.  Returns the exit code.
int print_result(const SweepPreparation& sweep, const SweepEnd& end) {
  const bool evaluates =
      sweep.options.eval_every > 0 &&
      std::any_of(sweep.inputs.begin(), sweep.inputs.end(),
                  [](const SweepInputs& inputs) { return !inputs.data.test.empty(); });
  const SweepSummary summary =
      summarize_sweep(sweep.options.out, sweep.plan, sweep.options.multipliers, evaluates,
                      shows_colours(STDOUT_FILENO));
  fmt::print("{}", summary.text);
  if (summary.weak > 0) {
    fmt::print(
        "weak cells: {}, whose vectors are below 0.5 % of the residual stream's norm or whose "
        "held-out margins at -v and +v are not apart; `bipo-dist inspect` of a run file says which "
        "and what to change\n",
        summary.weak);
  }
  if (end.has_unsaved) {
    fmt::print(
        "cells that the machine failed, for example its disk, are left to do; the same "
        "command tries them again\n");
  }
  if (end.status != RunStatus::kComplete) {
    fmt::print("interrupted; the same command continues\n");
  } else if (summary.failed > 0) {
    fmt::print(
        "failed cells are left alone; the same command with --retry-failed tries them\n"
        "again\n");
  }
  if (summary.running > 0) {
    fmt::print("{} cells are running in other jobs\n", summary.running);
  }
  if (end.status != RunStatus::kComplete && !end.has_unsaved) {
    return kExitInterrupted;
  }
  return summary.failed > 0 || end.has_unsaved ? kExitFailure : kExitDone;
}

std::vector<const TrainingInputs*> first_of_each_model(const SweepPreparation& sweep) {
  std::vector<const TrainingInputs*> models;
  std::set<std::string> names;
  for (const SweepInputs& inputs : sweep.inputs) {
    if (names.insert(inputs.model.name).second) {
      models.push_back(&inputs.job.inputs);
    }
  }
  return models;
}

int run_prepared(const SweepPreparation& sweep, Job& job) {
  Session& session = job.session();
  show_start(sweep, job);
  if (sweep.options.check_weights) {
    check_weights(first_of_each_model(sweep), session);
  }
  std::optional<SweepQueue> queue;
  session.together([&] {
    if (job.is_root()) {
      begin_sweep_directory(sweep.options.out, sweep.plan_text);
      queue.emplace(sweep.options.out, sweep.plan.packs, sweep.options.retry_failed);
    }
  });
  SweepProgress progress(
      sweep.options.out, sweep.plan, [&](const Cell& cell) { return cell_cost(sweep, cell); },
      job.display(), job.is_root());
  stop_when_asked();
  const SweepEnd end =
      run_sweep(sweep, session, queue ? &*queue : nullptr, {job.display(), progress});
  std::int64_t exit_code = kExitDone;
  session.together([&] {
    if (job.is_root()) {
      progress.finish();
      exit_code = print_result(sweep, end);
    }
  });
  return static_cast<int>(std::stoll(session.from_first(std::to_string(exit_code))));
}

// Returns about how many bytes the run files will take that are left to write.
std::uint64_t bytes_to_write(const SweepPreparation& sweep) {
  SweepMonitor monitor(sweep.options.out, sweep.plan);
  const std::vector<CellStatus>& status = monitor.look();
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < status.size(); ++i) {
    if (status[i] == CellStatus::kComplete || status[i] == CellStatus::kFailed) {
      continue;
    }
    const Cell& cell = sweep.plan.cells[i];
    const auto present = version_of(run_file_path(sweep.options.out, cell));
    const std::uint64_t whole = run_file_bytes(sweep, cell);
    bytes += whole - std::min(whole, present ? static_cast<std::uint64_t>(present->bytes) : 0);
  }
  return bytes;
}

// A continued sweep keeps the day of its first start, and version 0.1's rule for BOS if that
// started it.
SweepOptions as_first_started(const SweepOptions& given, Job& job) {
  std::string plan;
  job.session().together([&] {
    if (job.is_root()) {
      plan = stored_plan(given.out);
    }
  });
  plan = job.session().from_first(plan);
  const auto stored = template_date_of_plan(plan);
  SweepOptions options = given;
  options.bos = continued_bos_rule_of_plan(given.bos, plan);
  options.warmup_steps = continued_warmup_steps_of_plan(given, plan);
  keep_earlier_defaults(options, plan);
  options.template_date = choose_template_date(given.template_date, stored, job.begin_utc());
  return options;
}

void print_plan(const SweepPreparation& sweep) {
  const auto cost = [&](const Cell& cell) { return cell_cost(sweep, cell); };
  const auto bytes = [&](const Cell& cell) { return run_file_bytes(sweep, cell); };
  if (sweep.options.json) {
    print_json(plan_as_json(sweep.plan, cost, bytes));
  } else {
    fmt::print("{}", describe_plan(sweep.plan, cost, bytes));
  }
}

}  // namespace

int run_sweep_command(const SweepOptions& given, Session& session) {
  const TrialProcessKept trials;  // one for all run files of earlier versions
  Job job(session, given);
  const SweepOptions options = as_first_started(given, job);
  const SweepPreparation sweep =
      job.prepare([&] { return prepare_sweep(options, session); }, "the sweep to make");
  if (options.dry_run) {
    if (job.is_root()) {
      print_plan(sweep);
    }
    return kExitDone;
  }
  session.together([&] {
    if (job.is_root()) {
      check_sweep_directory(sweep.options.out, sweep.plan_text);
      check_free_space(sweep.options.out, bytes_to_write(sweep));
    }
  });
  return run_prepared(sweep, job);
}

}  // namespace bipo
