// The command `sweep`: one vector for every combination of the axes, by groups of ranks.
#include "launcher/sweep/sweep_command.hpp"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "collectives/number_reduction.hpp"
#include "experiments/files/process_identity.hpp"
#include "experiments/sweeps/sweep_directory.hpp"
#include "experiments/sweeps/sweep_queue.hpp"
#include "launcher/job/template_dates.hpp"
#include "launcher/sweep/sweep_group.hpp"
#include "launcher/sweep/sweep_preparation.hpp"
#include "launcher/sweep/sweep_progress.hpp"
#include "launcher/sweep/sweep_rounds.hpp"
#include "launcher/sweep/sweep_summary.hpp"
#include "launcher/terminal/progress.hpp"
#include "launcher/terminal/stop_signals.hpp"
#include "launcher/training/prepared_model.hpp"
#include "launcher/training/weight_check.hpp"

namespace bipo {
namespace {

// How long the first rank sleeps between looks at others' claims.
constexpr std::chrono::milliseconds kPoll{500};

// A sweep at work on all ranks of the job.
class SweepRun {
 public:
  // `queue` and `display` are the speaking rank's, null on the others.
  SweepRun(const SweepPreparation& sweep, Session& session, SweepQueue* queue, SweepDisplay display)
      : sweep_(sweep),
        session_(session),
        queue_(queue),
        display_(display),
        all_(session.make_ranks(of_all_ranks(*sweep.topology), is_cuda())),
        group_ranks_(session.make_ranks(*sweep.topology, is_cuda())),
        model_(sweep, all_) {}

  // Round after round, until nothing is left that nobody else does.
  RunStatus run() {
    const bool leads = group_ranks_.world->rank() == 0;
    std::optional<SweepQueue> own_queue;
    SweepQueue* queue = queue_;
    if (leads && queue == nullptr) {
      own_queue.emplace(sweep_.options.out, sweep_.plan.packs, sweep_.options.retry_failed);
      queue = &*own_queue;
    }
    SweepGroup group(sweep_, group_ranks_, session_, model_, queue, display_);
    while (true) {
      const std::vector<RoundPart> round = next_round();
      if (round.empty()) {
        return stop_signal_received_anywhere() ? RunStatus::kInterrupted : RunStatus::kComplete;
      }
      const std::vector<SweepPart> parts = prepare(round);
      const RunStatus status = work(group, parts);
      session_.wait_for_all([&] {
        if (display_.cells != nullptr) {
          display_.cells->tick();
        }
      });
      if (any_rank(status == RunStatus::kInterrupted)) {
        return RunStatus::kInterrupted;
      }
    }
  }

 private:
  // One data-parallel group of all replicas, for the passes that serve every cell.
  static Topology of_all_ranks(const Topology& topology) {
    return Topology(topology.world(), topology.rank(), topology.tp(), std::nullopt);
  }

  // What one group agrees on, the others do not know of: they would wait for it.
  RunStatus work(SweepGroup& group, const std::vector<SweepPart>& parts) const {
    try {
      return group.work(parts);
    } catch (const AgreedFailure& failure) {
      if (sweep_.topology->cells() == 1) {
        throw;
      }
      throw EnvironmentError(failure.what());
    }
  }

  bool is_cuda() const { return sweep_.inputs.front().job.device.is_cuda(); }

  bool any_rank(bool mine) const {
    return all_reduced(std::int64_t{mine}, ReduceOp::kMax, *all_.world) != 0;
  }

  bool stop_signal_received_anywhere() const { return any_rank(stop_signal_received()); }

  // Decided by the first rank, while the others sleep.
  std::vector<RoundPart> next_round() {
    std::string text;
    if (queue_ != nullptr) {
      text = round_to_text(plan_next_round());
    }
    session_.wait_for_all([] {});
    return round_from_text(session_.from_first(text));
  }

  std::vector<RoundPart> plan_next_round() {
    while (!stop_signal_received()) {
      const std::vector<LayerNeed> needs = free_needs();
      if (!needs.empty()) {
        return plan_round(needs, cache_budget());
      }
      if (!queue_->may_come_free()) {
        break;
      }
      std::this_thread::sleep_for(kPoll);
      display_.cells->tick();
    }
    return {};
  }

  // Of packs with something left to do that nobody works on.
  std::vector<LayerNeed> free_needs() {
    std::vector<LayerNeed> needs;
    for (const std::size_t task : queue_->free_tasks()) {
      const Cell& cell = queue_->tasks()[task].pack.members.front();
      const std::size_t inputs = inputs_of(sweep_, cell);
      needs.push_back({inputs, cell.layer, cache_bytes_per_layer(sweep_, sweep_.inputs[inputs])});
    }
    return needs;
  }

  std::uint64_t cache_budget() const {
    std::uint64_t least = sweep_.inputs.front().job.settings.cache_budget;
    for (const SweepInputs& inputs : sweep_.inputs) {
      least = std::min(least, inputs.job.settings.cache_budget);
    }
    return least;
  }

  // One pass per model and data set, by all ranks, for all layers of the round.
  std::vector<SweepPart> prepare(const std::vector<RoundPart>& round) {
    std::vector<SweepPart> parts;
    std::uint64_t budget = cache_budget();
    for (const RoundPart& wanted : round) {
      const SweepInputs& inputs = sweep_.inputs[wanted.inputs];
      if (display_.steps != nullptr) {
        display_.steps->message(fmt::format("{} with {}: {} {}", inputs.model.name,
                                            inputs.data.name, wanted.layers.size(),
                                            wanted.layers.size() == 1 ? "layer" : "layers"));
      }
      try {
        session_.together([&] { model_.of(wanted.inputs); });
        PreparedData data = prepare_data(model_.of(wanted.inputs), inputs.job,
                                         {wanted.layers, sweep_.options.eval_every > 0, budget},
                                         all_, display_.steps);
        const std::uint64_t kept = cache_bytes_per_layer(sweep_, inputs) *
                                   static_cast<std::uint64_t>(wanted.layers.size());
        budget -= std::min(budget, kept);
        parts.push_back({wanted.inputs, wanted.layers, std::move(data)});
      } catch (const AgreedFailure& failure) {
        fail(wanted, failure.what());
      }
    }
    return parts;
  }

  // The model itself fails on this data: so do all cells of the part that nobody works on.
  void fail(const RoundPart& part, const std::string& reason) {
    if (queue_ == nullptr) {
      return;
    }
    const auto concerned = [&](const Pack& pack) {
      const Cell& cell = pack.members.front();
      return part.inputs == inputs_of(sweep_, cell) &&
             std::binary_search(part.layers.begin(), part.layers.end(), cell.layer);
    };
    while (auto taken = queue_->take(concerned)) {
      const Pack& pack = queue_->tasks()[taken->task].pack;
      for (const std::size_t place : taken->progress.active) {
        const std::string& cell = pack.members[place].name;
        write_failure(sweep_.options.out, cell, reason);
        display_.steps->message(fmt::format("failed: {}: {}", cell, reason));
      }
      queue_->finish(*taken);
    }
  }

  const SweepPreparation& sweep_;
  Session& session_;
  SweepQueue* queue_;
  SweepDisplay display_;
  Ranks all_;
  Ranks group_ranks_;
  LoadedModel model_;
};

void show_start(const SweepPreparation& sweep, ProgressDisplay& display) {
  const SweepPlan& plan = sweep.plan;
  const Cell& first = plan.packs.front().members.front();
  const JobPreparation& job = sweep.inputs[inputs_of(sweep, first)].job;
  display.start_table(settings_table(cell_settings(sweep, first), job.inputs, *sweep.topology));
  display.message(fmt::format("sweep of {} cells in {} packs, the first of them above, in {}",
                              plan.cells.size(), plan.packs.size(), sweep.options.out.string()));
  for (const std::string& warning : sweep.warnings()) {
    display.message("warning: " + warning);
  }
}

// The program's result, on stdout.  Returns the exit code.
int print_result(const SweepPreparation& sweep, RunStatus status) {
  const bool evaluates =
      sweep.options.eval_every > 0 &&
      std::any_of(sweep.inputs.begin(), sweep.inputs.end(),
                  [](const SweepInputs& inputs) { return !inputs.data.test.empty(); });
  const SweepSummary summary =
      summarize_sweep(sweep.options.out, sweep.plan, sweep.options.multipliers, evaluates);
  fmt::print("{}", summary.text);
  if (status != RunStatus::kComplete) {
    fmt::print("interrupted; the same command continues\n");
  } else if (summary.failed > 0) {
    fmt::print(
        "failed cells are left alone; the same command with --retry-failed tries them "
        "again\n");
  }
  if (summary.running > 0) {
    fmt::print("{} cells are with other jobs, which go on with them\n", summary.running);
  }
  std::fflush(stdout);
  if (status != RunStatus::kComplete) {
    return kExitInterrupted;
  }
  return summary.failed > 0 ? kExitFailure : kExitDone;
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

int run_prepared(const SweepPreparation& sweep, Session& session) {
  const bool speaks = session.rank() == 0;
  const auto& threads = sweep.inputs.front().job.settings.threads;
  at::set_num_threads(static_cast<int>(threads.threads));
  if (sweep.options.check_weights) {
    check_weights(first_of_each_model(sweep), session);
  }
  std::optional<SweepQueue> queue;
  session.together([&] {
    if (speaks) {
      begin_sweep_directory(sweep.options.out, sweep.plan_text);
      queue.emplace(sweep.options.out, sweep.plan.packs, sweep.options.retry_failed);
    }
  });
  std::optional<ProgressDisplay> display;
  std::optional<SweepProgress> progress;
  SweepDisplay shown;
  if (speaks) {
    display.emplace(std::cerr, stderr_environment());
    progress.emplace(
        sweep.options.out, sweep.plan, [&](const Cell& cell) { return cell_cost(sweep, cell); },
        *display);
    shown = {&*display, &*progress};
    show_start(sweep, *display);
  }
  install_stop_signals();
  const RunStatus status = SweepRun(sweep, session, queue ? &*queue : nullptr, shown).run();
  std::string exit_code;
  session.together([&] {
    if (speaks) {
      progress->report();
      exit_code = std::to_string(print_result(sweep, status));
    }
  });
  return std::stoi(session.from_first(exit_code));
}

// A sweep that goes on keeps the day of its first start.
SweepOptions with_template_date(const SweepOptions& given, Session& session) {
  std::string plan;
  session.together([&] {
    if (session.rank() == 0) {
      plan = stored_plan(given.out);
    }
  });
  const auto stored = template_date_of_plan(session.from_first(plan));
  SweepOptions options = given;
  options.template_date =
      choose_template_date(given.template_date, stored, session.from_first(utc_text()));
  return options;
}

}  // namespace

int run_sweep_command(const SweepOptions& given, Session& session) {
  const SweepOptions options = with_template_date(given, session);
  std::optional<SweepPreparation> sweep;
  session.together([&] { sweep = prepare_sweep(options, session); });
  ContentHash plan;
  plan.add(sweep->plan_text);
  session.expect_same(plan.value(), "the sweep to make");
  if (options.dry_run) {
    if (session.rank() == 0) {
      fmt::print("{}", describe_plan(
                           sweep->plan, [&](const Cell& cell) { return cell_cost(*sweep, cell); },
                           [&](const Cell& cell) { return run_file_bytes(*sweep, cell); }));
      std::fflush(stdout);
    }
    return kExitDone;
  }
  session.together([&] {
    if (session.rank() == 0) {
      check_sweep_directory(sweep->options.out, sweep->plan_text);
    }
  });
  return run_prepared(*sweep, session);
}

}  // namespace bipo
