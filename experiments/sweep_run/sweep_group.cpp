#include "experiments/sweep_run/sweep_group.hpp"

#include <ATen/ops/full.h>
#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <filesystem>
#include <iostream>
#include <system_error>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "experiments/files/atomic_file.hpp"
#include "experiments/files/process_identity.hpp"
#include "experiments/progress/stop_signals.hpp"
#include "experiments/sweep_run/pack_observer.hpp"
#include "experiments/sweeps/sweep_directory.hpp"
#include "experiments/training/run_observer.hpp"
#include "experiments/training/run_record.hpp"
#include "trainer/loop/training.hpp"

namespace bipo {

// What the training loop gets for one member.
struct SweepGroup::Member {
  TrainingSettings settings;
  TrainingRecord record;
  RunObserver run;
  PackObserver observer;

  Member(TrainingSettings training, TrainingRecord start, RunObserver::Context run_context,
         PackObserver::Context pack_context, ProgressDisplay& display, PackSaver& saver)
      : settings(std::move(training)),
        record(std::move(start)),
        run(std::move(run_context), display),
        observer(std::move(pack_context), run, saver) {}
};

namespace {

// Returns the first rank's number on every rank.  Collective over: group
std::int64_t from_first(std::int64_t value, Communicator& group) {
  const at::Tensor shared = at::full({1}, value, at::kLong);
  group.broadcast(shared, 0);
  return shared.item<std::int64_t>();
}

std::set<std::string> names_of(const Pack& pack, const std::vector<std::size_t>& places) {
  std::set<std::string> names;
  for (const std::size_t place : places) {
    names.insert(pack.members[place].name);
  }
  return names;
}

bool is_complete(const SweepPreparation& sweep, const Cell& cell) {
  const std::filesystem::path run_file = run_file_path(sweep.options.out, cell);
  try {
    return std::filesystem::exists(run_file) && read_run_status(run_file) == RunStatus::kComplete;
  } catch (const UserError&) {
    return false;
  }
}

}  // namespace

void SweepDisplay::warn(const std::string& text) const {
  if (steps.shows()) {
    steps.warn(text);
  } else {
    std::cerr << fmt::format("warning: {}\n", text);
  }
}

Decoder& LoadedModel::of(std::size_t inputs) {
  const SweepInputs& wanted = sweep_.inputs[inputs];
  if (!decoder_ || name_ != wanted.model.name) {
    decoder_.reset();
    decoder_ = load_decoder(wanted.job, ranks_);
    name_ = wanted.model.name;
  }
  return *decoder_;
}

// A pack while it trains.
struct SweepGroup::Training {
  const Pack& pack;
  const TakenPack* taken;             // null except on the group's first rank
  std::vector<std::string> going_on;  // members that have not failed
  std::deque<Member> members;
  PackSaver saver;
  ReplaceGuard may_replace;
  std::vector<double> residual_rms;  // at each layer of the pack, see training_settings()
};

SweepGroup::SweepGroup(const SweepPreparation& sweep, const Ranks& ranks, Session& session,
                       LoadedModel& model, SweepQueue* queue, SweepDisplay display)
    : sweep_(sweep),
      ranks_(ranks),
      session_(session),
      model_(model),
      queue_(queue),
      display_(display),
      names_(sweep.plan.cells) {
}

RunStatus SweepGroup::work(const std::vector<SweepPart>& parts) {
  while (true) {
    std::optional<TakenPack> taken;
    session_.together(
        [&] {
          if (is_first() && !stop_signal_received()) {
            taken = take(parts);
          }
        },
        *ranks_.world);
    const PackAssignment assignment = share_assignment(sweep_.plan, queue_, taken, *ranks_.world);
    if (assignment.pack.members.empty()) {
      const bool stopped = from_first(stop_signal_received() ? 1 : 0, *ranks_.world) != 0;
      return stopped ? RunStatus::kInterrupted : RunStatus::kComplete;
    }
    const End end = work_on(parts, assignment.pack, assignment, taken ? &*taken : nullptr);
    if (taken) {
      end_pack(queue_->tasks()[taken->task], *taken, end);
    }
    if (end == End::kStopped) {
      return RunStatus::kInterrupted;
    }
  }
}

// Takes the next pack on the group's first rank; a pack whose files cannot be continued fails here.
std::optional<TakenPack> SweepGroup::take(const std::vector<SweepPart>& parts) {
  const auto wanted = [&](const Pack& pack) {
    const Cell& cell = pack.members.front();
    return std::any_of(parts.begin(), parts.end(), [&](const SweepPart& part) {
      return part.inputs == inputs_of(sweep_, cell) &&
             std::binary_search(part.layers.begin(), part.layers.end(), cell.layer);
    });
  };
  while (auto taken = queue_->take(wanted)) {
    const PackTask& task = queue_->tasks()[taken->task];
    for (const std::string& note : taken->notes) {
      display_.warn(note);
    }
    std::size_t member = 0;
    try {
      for (std::size_t i = 0; i < taken->progress.records.size(); ++i) {
        member = taken->progress.active[i];
        check_belongs(sweep_, task.pack.members[member], taken->progress.records[i]);
      }
    } catch (const UserError& error) {
      taken->problem = error.what();
      if (fail_one(task, member, *taken)) {
        continue;
      }
    }
    if (taken->problem.empty()) {
      return taken;
    }
    for (const Cell& cell : task.pack.members) {
      fail(cell, taken->problem, *taken);
    }
    end_pack(task, *taken, End::kDone);
  }
  return std::nullopt;
}

// Fails one of several members, so that the others go on when the pack is taken again.  Returns
// whether it could.
bool SweepGroup::fail_one(const PackTask& task, std::size_t member, TakenPack& taken) {
  const Cell& cell = task.pack.members[member];
  if (task.pack.members.size() == 1 || is_complete(sweep_, cell)) {
    return false;
  }
  fail(cell, taken.problem, taken);
  queue_->release(taken);
  return true;
}

SweepGroup::End SweepGroup::work_on(const std::vector<SweepPart>& parts, const Pack& pack,
                                    const PackAssignment& assignment, TakenPack* taken) {
  const std::size_t inputs = inputs_of(sweep_, pack.members.front());
  const auto part = std::find_if(parts.begin(), parts.end(), [&](const SweepPart& candidate) {
    return candidate.inputs == inputs;
  });
  if (taken != nullptr) {
    announce(pack, *taken);
  }
  End end = End::kDone;
  const auto train = [&] { end = train_pack(*part, pack, assignment, taken); };
  try {
    if (ranks_.world->size() == 1) {
      // A group of one rank communicates with nobody, so its failure is agreed on at once.
      session_.together(train, *ranks_.world);
    } else {
      train();
    }
  } catch (const AgreedFailure& failure) {
    if (failure.is_environment()) {
      if (taken != nullptr) {
        display_.warn(fmt::format("{}: not trained: {}", names_.of(pack.members), failure.what()));
      }
      end = End::kUnsaved;
    }
    for (const std::size_t place : assignment.active) {
      if (taken != nullptr && end != End::kUnsaved) {
        fail(pack.members[place], failure.what(), *taken);
      }
    }
  }
  display_.steps.finish();
  display_.cells.pack_ends();
  return end;
}

SweepGroup::End SweepGroup::train_pack(const SweepPart& part, const Pack& pack,
                                       const PackAssignment& assignment, TakenPack* taken) {
  const SteeredLayers layers = steered_layers(pack.members.front()).at(sweep_.options.site);
  session_.together(
      [&] {
        if (taken != nullptr) {
          require_space(pack, assignment);
        }
        load_suffix(part, layers.blocks_before());
      },
      *ranks_.world);
  if (taken != nullptr) {
    remove_stale_temps(sweep_.options.out, pack);
  }
  const ReplaceGuard may_replace =
      taken != nullptr ? ReplaceGuard([taken] { return taken->claim->is_mine(); }) : ReplaceGuard();
  const std::set<std::string> active = names_of(pack, assignment.active);
  Training training{pack,
                    taken,
                    {active.begin(), active.end()},
                    {},
                    PackSaver(pack_checkpoint_path(sweep_.options.out, pack), pack.members.size(),
                              active, may_replace, display_.steps),
                    may_replace,
                    median_rms_of_layers(model_.of(part.inputs), *part.data.train, layers, ranks_)};
  for (std::size_t i = 0; i < assignment.active.size(); ++i) {
    const Cell& cell = pack.members[assignment.active[i]];
    const bool has_logs = taken != nullptr && !taken->progress.records.empty();
    add_member(training, part, cell, assignment.states.empty() ? nullptr : &assignment.states[i],
               has_logs ? &taken->progress.records[i] : nullptr);
  }
  std::vector<TrainingMember> members;
  for (Member& member : training.members) {
    members.push_back({member.settings, member.record, member.observer});
  }
  LastStep last_step;
  std::optional<SaveAtStop> at_stop;
  if (taken != nullptr) {
    at_stop.emplace([&] {
      last_step.save();
      taken->claim->offer();
    });
  }
  const RunStatus status = train(model_.of(part.inputs), *part.data.train, part.data.held_out.get(),
                                 layers, members, ranks_, last_step);
  at_stop.reset();
  const bool is_superseded =
      std::any_of(training.members.begin(), training.members.end(),
                  [](const Member& member) { return member.run.is_superseded(); });
  if (from_first(is_superseded ? 1 : 0, *ranks_.world) != 0) {
    return End::kSuperseded;
  }
  const bool is_unsaved =
      !training.saver.failure().empty() ||
      std::any_of(training.members.begin(), training.members.end(),
                  [](const Member& member) { return !member.run.failure().empty(); });
  has_unsaved_ = has_unsaved_ || is_unsaved;
  if (status == RunStatus::kInterrupted) {
    return End::kStopped;
  }
  return from_first(is_unsaved ? 1 : 0, *ranks_.world) != 0 ? End::kUnsaved : End::kDone;
}

// Other jobs may take the room in the meantime; a save that fails then keeps its state elsewhere.
void SweepGroup::require_space(const Pack& pack, const PackAssignment& assignment) const {
  std::uint64_t bytes = 0;
  std::uint64_t most = 0;  // of the file that a save writes beside the old one
  for (const std::size_t place : assignment.active) {
    const Cell& cell = pack.members[place];
    const auto present = version_of(run_file_path(sweep_.options.out, cell));
    const std::uint64_t whole = run_file_bytes(sweep_, cell);
    bytes += whole - std::min(whole, present ? static_cast<std::uint64_t>(present->bytes) : 0);
    most = std::max(most, whole);
  }
  check_replaceable(run_file_path(sweep_.options.out, pack.members.front()), bytes + most);
}

void SweepGroup::add_member(Training& training, const SweepPart& part, const Cell& cell,
                            const Checkpoint* state, const RunRecord* previous) {
  const JobPreparation& job = sweep_.inputs[part.inputs].job;
  const TrainOptions options = cell_options(sweep_, cell);
  const PlanSettings plan = plan_settings(options, job.inputs.train);
  const BatchPlan batches(plan);
  const std::vector<double> norms = residual_norms(training.residual_rms, job.inputs.config.hidden);
  RunObserver::Context run;
  run.out = options.out;
  run.attributes =
      run_attributes(options, job, session_, run_config(options, job),
                     previous != nullptr ? previous->attributes.created_utc : utc_text());
  run.total_steps = batches.total_steps();
  run.steps_per_epoch = batches.steps_per_epoch();
  run.epochs = options.epochs;
  run.batch_size = options.batch_size;
  run.train_pairs = plan.pairs;
  run.residual_norm = vector_norm(norms);
  run.may_replace = training.may_replace;
  run.additions = previous != nullptr ? previous->additions : nullptr;
  run.found = version_of(options.out);
  run.rescue_dir = rescue_directory(sweep_.options.rescue_dir);
  run.continuation = "the same command again";
  run.judged_by =
      verdict_settings(options, job.inputs.test,
                       comparable_norms(options, job.inputs.config, norms), run.total_steps);

  PackObserver::Context in_pack;
  in_pack.member = cell.name;
  in_pack.is_complete = previous != nullptr && previous->attributes.status == RunStatus::kComplete;
  in_pack.on_failure = [this, &training, &cell](const std::string& reason) {
    std::erase(training.going_on, cell.name);
    if (training.taken != nullptr) {
      fail(cell, reason, *training.taken);
    }
  };
  in_pack.on_early_end = [&training, &cell] { std::erase(training.going_on, cell.name); };
  in_pack.is_reporter = [&training, &cell] {
    return !training.going_on.empty() && training.going_on.front() == cell.name;
  };
  in_pack.on_step = [this, total = static_cast<double>(run.total_steps)](const StepRow& row) {
    display_.cells.pack_has_done(static_cast<double>(row.step + 1) / total);
    display_.cells.tick();
  };

  TrainingRecord record = previous != nullptr
                              ? TrainingRecord(*previous)
                              : new_record(options, job.inputs.config.hidden, norms.front());
  if (state != nullptr) {
    record.checkpoint = *state;
  }
  training.members.emplace_back(
      training_settings(options, plan, training.residual_rms, job.inputs.config), std::move(record),
      std::move(run), std::move(in_pack), display_.steps, training.saver);
  const bool is_complete =
      previous != nullptr && previous->attributes.status == RunStatus::kComplete;
  if (training.taken != nullptr && !options.log_jsonl.empty() && !is_complete) {
    log_steps(training.members.back(), options.log_jsonl);
  }
}

// A log that cannot be written is no reason to fail a cell.
void SweepGroup::log_steps(Member& member, const std::filesystem::path& path) const {
  const std::vector<StepRow>& before = member.record.steps;
  try {
    member.run.log_to(StepLog(path, ExistingLog::kContinue, before), before);
  } catch (const UserError& error) {
    display_.warn(fmt::format("{}; the cell trains without a log", error.what()));
  }
}

// Without cached activations, every step runs the first blocks too.
void SweepGroup::load_suffix(const SweepPart& part, std::int64_t first) {
  Decoder& decoder = model_.of(part.inputs);
  const std::int64_t blocks = decoder.config().blocks;
  if (part.data.keeps_activations()) {
    decoder.release_blocks({0, first});
    decoder.load_blocks({first, blocks});
  } else {
    decoder.load_embedding();
    decoder.load_blocks({0, blocks});
  }
}

void SweepGroup::announce(const Pack& pack, const TakenPack& taken) const {
  std::vector<Cell> cells;
  for (const std::size_t place : taken.progress.active) {
    cells.push_back(pack.members[place]);
  }
  std::string text = fmt::format("training {}", names_.of(cells));
  if (!taken.progress.records.empty()) {
    text += fmt::format(", from step {}", taken.progress.records.front().checkpoint.step);
  }
  display_.cells.report();
  if (display_.steps.shows_progress() && !display_.steps.has_board()) {
    display_.steps.message(text);
  }
  display_.cells.pack_begins(pack);
}

void SweepGroup::fail(const Cell& cell, const std::string& reason, const TakenPack& taken) {
  if (!taken.claim->is_mine() || is_complete(sweep_, cell)) {
    return;
  }
  write_failure(sweep_.options.out, cell.name, reason);
  display_.steps.problem(fmt::format("{}: {}", names_.of(cell), reason));
}

void SweepGroup::end_pack(const PackTask& task, TakenPack& taken, End end) {
  if (end == End::kSuperseded) {
    display_.steps.message(fmt::format("{}: taken over by another job, which continues it",
                                       names_.of(task.pack.members)));
    return;
  }
  if (end == End::kStopped) {
    queue_->release(taken);
    return;
  }
  if (end == End::kUnsaved) {
    has_unsaved_ = true;
    queue_->give_up(taken);
    return;
  }
  if (taken.claim->is_mine()) {
    std::error_code ignored;  // a file that remains is harmless
    std::filesystem::remove(pack_checkpoint_path(sweep_.options.out, task.pack), ignored);
    for (const Cell& cell : task.pack.members) {
      if (task.is_retry && is_complete(sweep_, cell)) {
        clear_failure(sweep_.options.out, cell.name);
      }
    }
  }
  queue_->finish(taken);
}

}  // namespace bipo
