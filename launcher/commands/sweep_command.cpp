// The command `sweep`: trains one vector for every combination of the axes, on groups of ranks.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <vector>

#include "collectives/foundation/errors.hpp"
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
#include "experiments/sweeps/stored_plan.hpp"
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
void show_start(const SweepPreparation& sweep, const std::string& growth, Job& job) {
  const SweepPlan& plan = sweep.plan;
  const Cell& first = plan.packs.front().members.front();
  const JobPreparation& inputs = sweep.inputs[inputs_of(sweep, first)].job;
  job.show(inputs.computation, run_table(cell_options(sweep, first), inputs, sweep.topology),
           sweep.warnings(), sweep.notes());
  job.display().message(fmt::format("sweep of {} cells in {} packs, the first of them above, in {}",
                                    plan.cells.size(), plan.packs.size(),
                                    sweep.options.out.string()));
  if (!growth.empty()) {
    job.display().message(growth);
  }
}

// Returns the packs of cells that the sweep adds to a plan, for a function of directories.
PackMaker pack_maker(const SweepPreparation& sweep) {
  return [&sweep](const std::vector<Cell>& cells) { return packs_of(sweep, cells); };
}

std::string cell_count(std::size_t count) {
  return fmt::format("{} {}", count, count == 1 ? "cell" : "cells");
}

// Says what the sweep adds to the plan in its directory, or what that has beside the sweep's cells;
// "" for the same plan, or none.
std::string describe_growth(const SweepPreparation& sweep, const PlanFit& fit) {
  const std::string out = sweep.options.out.string();
  if (!fit.added.empty()) {
    const std::string values = describe_added(sweep.plan, fit.added);
    return fmt::format("adds {} to the {} of the sweep in {}, as revision {} of its plan{}",
                       cell_count(fit.added.size()), sweep.plan.cells.size() - fit.added.size(),
                       out, fit.revision + 1, values.empty() ? "" : ": " + values);
  }
  if (!fit.later.empty()) {
    return fmt::format(
        "an earlier revision of the plan in {}: revision {} has {} more, which this job leaves "
        "alone",
        out, fit.revision, cell_count(fit.later.size()));
  }
  return "";
}

// Says what other jobs added to the plan since; "" where that is nothing or cannot be read.
std::string describe_later(const SweepPreparation& sweep) {
  try {
    const PlanFit fit =
        fit_plan(stored_plan(sweep.options.out), sweep.plan, plan_path(sweep.options.out).string());
    if (fit.later.empty()) {
      return "";
    }
    return fmt::format(
        "the sweep's plan has grown: its revision {} has {} that these options do not name; the "
        "jobs that added them train them, or a sweep with their options\n",
        fit.revision, cell_count(fit.later.size()));
  } catch (const UserError&) {
    return "";
  }
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
  fmt::print("{}", describe_later(sweep));
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

// Throws UserError where the folder of --log-jsonl cannot be made.
void make_log_folder(const SweepOptions& options) {
  std::error_code error;
  if (options.log_jsonl.empty() || std::filesystem::is_directory(options.log_jsonl, error)) {
    return;
  }
  std::filesystem::create_directories(options.log_jsonl, error);
  if (error) {
    throw UserError(
        fmt::format("--log-jsonl {}: the folder for the logs of the cells cannot be "
                    "made: {}; name another",
                    options.log_jsonl.string(), error.message()));
  }
}

// Lets the root read or write the plan in the sweep's directory; all ranks take their packs from
// it.
void share_plan(SweepPreparation& sweep, Job& job, const std::function<std::string()>& on_root) {
  std::string text;
  job.session().together([&] {
    if (job.is_root()) {
      text = on_root();
    }
  });
  text = job.session().from_first(text);
  job.session().together([&] { adopt_packs(sweep, text); });
}

int run_prepared(SweepPreparation& sweep, const std::string& growth, Job& job) {
  Session& session = job.session();
  show_start(sweep, growth, job);
  if (sweep.options.check_weights) {
    check_weights(first_of_each_model(sweep), session);
  }
  share_plan(sweep, job, [&] {
    return begin_sweep_directory(sweep.options.out, sweep.plan, pack_maker(sweep));
  });
  std::optional<SweepQueue> queue;
  session.together([&] {
    if (job.is_root()) {
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

// Prints what --dry-run shows.
void print_plan(const SweepPreparation& sweep, const DirectoryPlan& in_directory) {
  const auto cost = [&](const Cell& cell) { return cell_cost(sweep, cell); };
  const auto bytes = [&](const Cell& cell) { return run_file_bytes(sweep, cell); };
  const PlanFit& fit = in_directory.fit;
  if (sweep.options.json) {
    nlohmann::ordered_json json = plan_as_json(sweep.plan, cost, bytes);
    json["added"] = fit.added;
    print_json(json);
    return;
  }
  fmt::print("{}", describe_plan(sweep.plan, cost, bytes));
  if (const std::string growth = describe_growth(sweep, fit); !growth.empty()) {
    fmt::print("\n{}\n", growth);
  }
  for (const std::string& name : fit.added) {
    fmt::print("  {}\n", name);
  }
}

}  // namespace

int run_sweep_command(const SweepOptions& given, Session& session) {
  const TrialProcessKept trials;  // one for all run files of earlier versions
  Job job(session, given);
  const SweepOptions options = as_first_started(given, job);
  SweepPreparation sweep =
      job.prepare([&] { return prepare_sweep(options, session); }, "the sweep to make");
  DirectoryPlan in_directory;  // of the root
  share_plan(sweep, job, [&] {
    const auto look = options.dry_run ? plan_in_directory : check_sweep_directory;
    in_directory = look(sweep.options.out, sweep.plan, pack_maker(sweep));
    return in_directory.text;
  });
  if (options.dry_run) {
    if (job.is_root()) {
      print_plan(sweep, in_directory);
    }
    return kExitDone;
  }
  session.together([&] {
    if (job.is_root()) {
      check_free_space(sweep.options.out, bytes_to_write(sweep));
      make_log_folder(sweep.options);
    }
  });
  return run_prepared(sweep, describe_growth(sweep, in_directory.fit), job);
}

}  // namespace bipo
