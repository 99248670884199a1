#include "experiments/sweep_run/sweep_run.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <optional>
#include <thread>
#include <utility>

#include "collectives/communicator.hpp"
#include "collectives/foundation/errors.hpp"
#include "experiments/progress/stop_signals.hpp"
#include "experiments/sweep_run/sweep_rounds.hpp"
#include "experiments/sweeps/sweep_directory.hpp"
#include "experiments/sweeps/sweep_queue.hpp"

namespace bipo {
namespace {

// Pause of the first rank between looks at the claims of other jobs.
constexpr std::chrono::milliseconds kPoll{500};

// A sweep at work on all ranks of the job.
class SweepRun {
 public:
  // `queue` belongs to the root and is null on the others.
  SweepRun(const SweepPreparation& sweep, Session& session, SweepQueue* queue, SweepDisplay display)
      : sweep_(sweep),
        session_(session),
        queue_(queue),
        display_(display),
        all_(session.make_ranks(of_all_ranks(sweep.topology), device())),
        group_ranks_(session.make_ranks(sweep.topology, device())),
        model_(sweep, all_) {}

  // Works round after round, until no work is left that no other job does.
  SweepEnd run() {
    const bool leads = group_ranks_.world->rank() == 0;
    std::optional<SweepQueue> own_queue;
    SweepQueue* queue = queue_;
    if (leads && queue == nullptr) {
      own_queue.emplace(sweep_.options.out, sweep_.plan.packs, sweep_.options.retry_failed);
      queue = &*own_queue;
    }
    SweepGroup group(sweep_, group_ranks_, session_, model_, queue, display_);
    const auto end = [&](RunStatus status) {
      return SweepEnd{status, any_rank(has_unsaved_ || group.has_unsaved())};
    };
    while (true) {
      const std::vector<RoundPart> round = next_round();
      if (round.empty()) {
        return end(stop_signal_received_anywhere() ? RunStatus::kInterrupted
                                                   : RunStatus::kComplete);
      }
      const std::vector<SweepPart> parts = prepare(round);
      const RunStatus status = work(group, parts);
      session_.wait_for_all([&] { display_.cells.tick(); });
      if (any_rank(status == RunStatus::kInterrupted)) {
        return end(RunStatus::kInterrupted);
      }
    }
  }

 private:
  // Returns one data-parallel group of all replicas, for the passes that serve every cell.
  static Topology of_all_ranks(const Topology& topology) {
    return Topology(topology.world(), topology.rank(), topology.tp(), std::nullopt);
  }

  // A failure that one group agrees on is unknown to the others, which would wait for it.
  RunStatus work(SweepGroup& group, const std::vector<SweepPart>& parts) const {
    try {
      return group.work(parts);
    } catch (const AgreedFailure& failure) {
      if (sweep_.topology.cells() == 1) {
        throw;
      }
      throw EnvironmentError(failure.what());
    }
  }

  c10::Device device() const { return sweep_.inputs.front().job.computation.device; }

  bool any_rank(bool mine) const {
    return all_reduced(std::int64_t{mine}, ReduceOp::kMax, *all_.world) != 0;
  }

  bool stop_signal_received_anywhere() const { return any_rank(stop_signal_received()); }

  // The first rank decides while the others sleep.
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
        return plan_round(needs, least_cache_budget(sweep_));
      }
      if (!queue_->may_come_free()) {
        break;
      }
      std::this_thread::sleep_for(kPoll);
      display_.cells.tick();
    }
    return {};
  }

  // Returns the needs of packs that have work left and that no job works on.
  std::vector<LayerNeed> free_needs() {
    std::vector<LayerNeed> needs;
    for (const std::size_t task : queue_->free_tasks()) {
      const Cell& cell = queue_->tasks()[task].pack.members.front();
      const std::size_t inputs = inputs_of(sweep_, cell);
      needs.push_back({inputs, cell.layer, cache_bytes_per_layer(sweep_, sweep_.inputs[inputs])});
    }
    return needs;
  }

  std::vector<Cell> cells_of(std::size_t inputs) const {
    std::vector<Cell> cells;
    std::copy_if(sweep_.plan.cells.begin(), sweep_.plan.cells.end(), std::back_inserter(cells),
                 [&](const Cell& cell) { return inputs_of(sweep_, cell) == inputs; });
    return cells;
  }

  // Runs one pass per model and data set, on all ranks, for all layers of the round.
  std::vector<SweepPart> prepare(const std::vector<RoundPart>& round) {
    std::vector<SweepPart> parts;
    std::uint64_t budget = least_cache_budget(sweep_);
    for (const RoundPart& wanted : round) {
      const SweepInputs& inputs = sweep_.inputs[wanted.inputs];
      display_.steps.message(fmt::format("{} with {}: {}", inputs.model.name, inputs.data.name,
                                         layers_of_cells(wanted, cells_of(wanted.inputs))));
      try {
        session_.together([&] { model_.of(wanted.inputs); });
        PreparedData data = prepare_data(
            model_.of(wanted.inputs), inputs.job,
            {wanted.layers, sweep_.options.eval_every > 0, budget, uses_reference(sweep_)}, all_,
            display_.steps);
        const std::uint64_t kept = cache_bytes_per_layer(sweep_, inputs) *
                                   static_cast<std::uint64_t>(wanted.layers.size());
        budget -= std::min(budget, kept);
        parts.push_back({wanted.inputs, wanted.layers, std::move(data)});
      } catch (const AgreedFailure& failure) {
        fail(wanted, failure);
      }
    }
    return parts;
  }

  // The model itself fails on this data, so all cells of the part that no job works on fail; or the
  // machine fails, and the cells are left to the next start.
  void fail(const RoundPart& part, const AgreedFailure& failure) {
    has_unsaved_ = has_unsaved_ || failure.is_environment();
    if (queue_ == nullptr) {
      return;
    }
    if (failure.is_environment()) {
      display_.warn(
          fmt::format("{} packs are not trained: {}", give_up(concerning(part)), failure.what()));
      return;
    }
    const ShortNames names(sweep_.plan.cells);
    while (auto taken = queue_->take(concerning(part))) {
      const Pack& pack = queue_->tasks()[taken->task].pack;
      for (const std::size_t place : taken->progress.active) {
        const Cell& cell = pack.members[place];
        write_failure(sweep_.options.out, cell.name, failure.what());
        display_.steps.problem(fmt::format("{}: {}", names.of(cell), failure.what()));
      }
      queue_->finish(*taken);
    }
  }

  SweepQueue::Wanted concerning(const RoundPart& part) const {
    return [this, &part](const Pack& pack) {
      const Cell& cell = pack.members.front();
      return part.inputs == inputs_of(sweep_, cell) &&
             std::binary_search(part.layers.begin(), part.layers.end(), cell.layer);
    };
  }

  // Returns how many packs it gave up.
  std::size_t give_up(const SweepQueue::Wanted& wanted) {
    std::size_t packs = 0;
    while (auto taken = queue_->take(wanted)) {
      queue_->give_up(*taken);
      ++packs;
    }
    return packs;
  }

  const SweepPreparation& sweep_;
  Session& session_;
  SweepQueue* queue_;
  SweepDisplay display_;
  Ranks all_;
  Ranks group_ranks_;
  LoadedModel model_;
  bool has_unsaved_ = false;  // the machine failed a pass
};

}  // namespace

SweepEnd run_sweep(const SweepPreparation& sweep, Session& session, SweepQueue* queue,
                   SweepDisplay display) {
  return SweepRun(sweep, session, queue, display).run();
}

}  // namespace bipo
