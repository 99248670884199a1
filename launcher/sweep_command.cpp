// The command `sweep`: one vector for every combination of the axes, pack by pack.
#include "launcher/sweep_command.hpp"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <deque>
#include <iostream>
#include <optional>
#include <utility>

#include "launcher/pack_observer.hpp"
#include "launcher/prepared_model.hpp"
#include "launcher/progress.hpp"
#include "launcher/run_beginning.hpp"
#include "launcher/run_observer.hpp"
#include "launcher/stop_signals.hpp"
#include "launcher/sweep_preparation.hpp"
#include "launcher/sweep_summary.hpp"
#include "trainer/training.hpp"

namespace bipo {
namespace {

// What the training loop is given of one member.
struct PackMember {
  TrainingSettings settings;
  TrainingRecord record;
  RunObserver run;
  PackObserver observer;

  PackMember(std::size_t index, TrainingSettings training, TrainingRecord start,
             RunObserver::Context context, ProgressDisplay* display, PackSaver& saver)
      : settings(std::move(training)),
        record(std::move(start)),
        run(std::move(context), display),
        observer(index, run, saver) {}
};

// A sweep whose model is loaded, with all ranks as one group.
class SweepRun {
 public:
  SweepRun(SweepPreparation& sweep, PreparedModel model, const Ranks& ranks, const Session& session,
           ProgressDisplay* display)
      : sweep_(sweep),
        model_(std::move(model)),
        ranks_(ranks),
        session_(session),
        display_(display) {}

  RunStatus train_packs() {
    for (std::size_t i = 0; i < sweep_.plan.packs.size(); ++i) {
      announce(i);
      if (sweep_.progress[i].is_complete) {
        continue;
      }
      if (train_pack(i) == RunStatus::kInterrupted) {
        return RunStatus::kInterrupted;
      }
    }
    return RunStatus::kComplete;
  }

 private:
  void announce(std::size_t index) const {
    if (display_ == nullptr) {
      return;
    }
    const Pack& pack = sweep_.plan.packs[index];
    const PackProgress& progress = sweep_.progress[index];
    std::string text =
        fmt::format("pack {}/{}: layer {}, {} {}", index + 1, sweep_.plan.packs.size(),
                    pack.members.front().layer, pack.members.size(),
                    pack.members.size() == 1 ? "vector" : "vectors");
    if (progress.is_complete) {
      text += ", complete already";
    } else if (!progress.members.empty()) {
      text += fmt::format(", from step {}", progress.members.front().checkpoint.step);
    }
    display_->message(text);
  }

  RunStatus train_pack(std::size_t index) {
    const Pack& pack = sweep_.plan.packs[index];
    const std::int64_t layer = pack.members.front().layer;
    release_blocks_before(sweep_.layers_to_train(index).front() + 1);

    std::vector<std::string> names;
    for (const Cell& cell : pack.members) {
      names.push_back(cell.name);
    }
    if (ranks_.world->rank() == 0) {
      remove_stale_temps(sweep_.options.out, pack);
    }
    PackSaver saver(pack_checkpoint_path(sweep_.options.out, pack), names, display_);
    std::deque<PackMember> members;
    const std::vector<RunRecord> previous = std::move(sweep_.progress[index].members);
    for (std::size_t i = 0; i < pack.members.size(); ++i) {
      add_member(members, pack.members[i], previous.empty() ? nullptr : &previous[i], saver);
    }
    std::vector<TrainingMember> training;
    for (PackMember& member : members) {
      training.push_back({member.settings, member.record, member.observer});
    }
    const RunStatus status =
        train(*model_.decoder, *model_.train, model_.held_out.get(), layer, training, ranks_);
    if (display_ != nullptr) {
      display_->finish();
    }
    return status;
  }

  // Where activations are not kept, every step runs the blocks before the layer.
  void release_blocks_before(std::int64_t block) const {
    const bool keeps = model_.train->keeps_activations() &&
                       (model_.held_out == nullptr || model_.held_out->keeps_activations());
    if (keeps) {
      model_.decoder->release_blocks({0, block});
    }
  }

  void add_member(std::deque<PackMember>& members, const Cell& cell, const RunRecord* previous,
                  PackSaver& saver) const {
    const JobPreparation& job = sweep_.job;
    const RunSettings settings = cell_settings(sweep_, cell);
    const PlanSettings plan = plan_settings(settings, job.inputs.train);
    const BatchPlan batches(plan);
    const double residual_rms = model_.train->median_rms(cell.layer);
    RunObserver::Context context;
    context.out = settings.options.out;
    context.attributes =
        run_attributes(settings, job.inputs, *job.topology, session_, cell_config(sweep_, cell),
                       previous != nullptr ? previous->attributes.created_utc : now_utc());
    context.total_steps = batches.total_steps();
    context.steps_per_epoch = batches.steps_per_epoch();
    context.epochs = settings.options.epochs;
    context.batch_size = settings.options.batch_size;
    context.train_pairs = plan.pairs;
    context.residual_norm = residual_rms * std::sqrt(static_cast<double>(job.inputs.config.hidden));
    members.emplace_back(members.size(), training_settings(settings, plan, residual_rms),
                         previous != nullptr ? TrainingRecord(*previous)
                                             : starting_record(job.inputs.config.hidden, cell.seed),
                         std::move(context), display_, saver);
  }

  SweepPreparation& sweep_;
  PreparedModel model_;
  const Ranks& ranks_;
  const Session& session_;
  ProgressDisplay* display_;  // null on ranks that stay silent
};

bool evaluates(const SweepPreparation& sweep) {
  return sweep.options.eval_every > 0 && !sweep.job.inputs.test.empty();
}

void show_start(const SweepPreparation& sweep, ProgressDisplay& display) {
  const SweepPlan& plan = sweep.plan;
  display.start_table(settings_table(cell_settings(sweep, plan.cells.front()), sweep.job.inputs,
                                     *sweep.job.topology));
  display.message(fmt::format(
      "sweep of {} cells, the first of them above: {} packs of at most {} vectors per "
      "pass, in {}",
      plan.cells.size(), plan.packs.size(), plan.vectors_per_pass, sweep.options.out.string()));
  for (const std::string& warning : sweep.job.warnings) {
    display.message("warning: " + warning);
  }
}

// The program's result, on stdout.
void print_result(const SweepPreparation& sweep, RunStatus status) {
  fmt::print("{}", sweep_summary(sweep.options.out, sweep.plan.cells, sweep.options.multipliers,
                                 evaluates(sweep)));
  if (status != RunStatus::kComplete) {
    fmt::print("interrupted; the same command continues\n");
  }
  std::fflush(stdout);
}

RunStatus run_cells(SweepPreparation& sweep, Session& session, ProgressDisplay* display) {
  const std::vector<std::int64_t> layers = sweep.layers_to_train();
  if (layers.empty()) {
    if (display != nullptr) {
      display->message(fmt::format("{}: every cell is complete already, nothing to do",
                                   sweep.options.out.string()));
    }
    return RunStatus::kComplete;
  }
  if (display != nullptr) {
    show_start(sweep, *display);
  }
  const JobPreparation& job = sweep.job;
  at::set_num_threads(static_cast<int>(job.settings.threads.threads));
  install_stop_signals();
  const Ranks ranks = session.make_ranks(*job.topology, job.device.is_cuda());
  PreparedModel model =
      prepare_model(job.inputs, job.settings,
                    {layers, job.product_type, job.device, sweep.options.eval_every > 0}, ranks,
                    session, display);
  return SweepRun(sweep, std::move(model), ranks, session, display).train_packs();
}

int run_prepared(SweepPreparation& sweep, Session& session) {
  std::optional<ProgressDisplay> display;
  if (session.rank() == 0) {
    display.emplace(std::cerr, stderr_environment());
  }
  const RunStatus status = run_cells(sweep, session, display ? &*display : nullptr);
  if (session.rank() == 0) {
    print_result(sweep, status);
  }
  return status == RunStatus::kComplete ? kExitDone : kExitInterrupted;
}

}  // namespace

int run_sweep_command(const SweepOptions& options, Session& session) {
  std::optional<SweepPreparation> sweep;
  session.together([&] { sweep = prepare_sweep(options, session); });
  session.expect_same(sweep->agreement, "the sweep to make");
  if (options.dry_run) {
    if (session.rank() == 0) {
      fmt::print("{}", describe_plan(sweep->plan, sweep->cost, run_file_bytes(*sweep)));
      std::fflush(stdout);
    }
    return kExitDone;
  }
  session.together([&] {
    if (session.rank() == 0) {
      begin_sweep_directory(sweep->options.out, sweep->plan_text);
    }
  });
  return run_prepared(*sweep, session);
}

}  // namespace bipo
