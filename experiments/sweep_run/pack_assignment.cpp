#include "experiments/sweep_run/pack_assignment.hpp"

#include <ATen/ATen.h>

#include <algorithm>

namespace bipo {
namespace {

// The fields of the first broadcast, as int64.
enum Header : std::int64_t { kKind, kPlace, kActive, kStates, kHidden, kHeaderSize };
enum Kind : std::int64_t { kNothing, kPack, kRetry };

template <typename Items>
std::int64_t place_of(const Items& items, const std::string& name) {
  const auto found =
      std::find_if(items.begin(), items.end(), [&](const auto& item) { return item.name == name; });
  return found - items.begin();
}

std::vector<std::int64_t> header_of(const SweepPlan& plan, const PackTask& task,
                                    const PackProgress& progress) {
  std::vector<std::int64_t> header(kHeaderSize, 0);
  header[kKind] = task.is_retry ? kRetry : kPack;
  header[kPlace] =
      task.is_retry ? place_of(plan.cells, task.pack.name) : place_of(plan.packs, task.pack.name);
  header[kActive] = static_cast<std::int64_t>(progress.active.size());
  header[kStates] = static_cast<std::int64_t>(progress.records.size());
  header[kHidden] =
      progress.records.empty()
          ? 0
          : static_cast<std::int64_t>(progress.records.front().checkpoint.vector.size());
  return header;
}

Pack pack_at(const SweepPlan& plan, std::int64_t kind, std::int64_t place) {
  const auto index = static_cast<std::size_t>(place);
  if (kind == kPack) {
    return plan.packs[index];
  }
  const Cell& cell = plan.cells[index];
  return {{cell}, cell.name};
}

// Visits the rows of one state: vector, exp_avg, exp_avg_sq.
template <typename State, typename Use>
void for_each_row(State& state, Use use) {
  for (auto* row : {&state.vector, &state.exp_avg, &state.exp_avg_sq}) {
    use(*row);
  }
}

void share_states(const std::vector<RunRecord>& records, std::int64_t hidden,
                  std::vector<Checkpoint>& states, Communicator& group) {
  const auto members = static_cast<std::int64_t>(states.size());
  const at::Tensor counters = at::zeros({members, 3}, at::kLong);  // step, seed, learns a factor
  const at::Tensor factors = at::zeros({members, 3}, at::kFloat);  // and its moments
  const at::Tensor values = at::zeros({members, 3, hidden}, at::kFloat);
  float* next = values.mutable_data_ptr<float>();
  for (std::size_t i = 0; i < records.size(); ++i) {
    const Checkpoint& state = records[i].checkpoint;
    counters[static_cast<std::int64_t>(i)][0] = state.step;
    counters[static_cast<std::int64_t>(i)][1] = static_cast<std::int64_t>(state.seed);
    if (state.factor) {
      float* factor = factors.mutable_data_ptr<float>() + 3 * i;
      counters[static_cast<std::int64_t>(i)][2] = 1;
      factor[0] = state.factor->value;
      factor[1] = state.factor->exp_avg;
      factor[2] = state.factor->exp_avg_sq;
    }
    for_each_row(state, [&](const std::vector<float>& row) {
      next = std::copy(row.begin(), row.end(), next);
    });
  }
  group.broadcast(counters, 0);
  group.broadcast(values, 0);
  group.broadcast(factors, 0);
  const float* read = values.const_data_ptr<float>();
  for (std::size_t i = 0; i < states.size(); ++i) {
    const auto row = static_cast<std::int64_t>(i);
    states[i].step = counters[row][0].item<std::int64_t>();
    states[i].seed = static_cast<std::uint64_t>(counters[row][1].item<std::int64_t>());
    if (counters[row][2].item<std::int64_t>() != 0) {
      const float* factor = factors.const_data_ptr<float>() + 3 * i;
      states[i].factor = LearnedFactor{factor[0], factor[1], factor[2]};
    }
    for_each_row(states[i], [&](std::vector<float>& values_of_row) {
      values_of_row.assign(read, read + hidden);
      read += hidden;
    });
  }
}

}  // namespace

PackAssignment share_assignment(const SweepPlan& plan, const SweepQueue* queue,
                                const std::optional<TakenPack>& taken, Communicator& group) {
  const at::Tensor header = at::zeros({kHeaderSize}, at::kLong);
  std::vector<std::int64_t> active;
  if (taken) {
    header.copy_(
        at::tensor(header_of(plan, queue->tasks()[taken->task], taken->progress), at::kLong));
    active.assign(taken->progress.active.begin(), taken->progress.active.end());
  }
  group.broadcast(header, 0);
  const std::int64_t* values = header.const_data_ptr<std::int64_t>();
  PackAssignment assignment;
  if (values[kKind] == kNothing) {
    return assignment;
  }
  assignment.pack = pack_at(plan, values[kKind], values[kPlace]);
  active.resize(static_cast<std::size_t>(values[kActive]));
  const at::Tensor places = at::tensor(active, at::kLong);
  group.broadcast(places, 0);
  const std::int64_t* place = places.const_data_ptr<std::int64_t>();
  assignment.active.assign(place, place + active.size());
  assignment.states.resize(static_cast<std::size_t>(values[kStates]));
  if (!assignment.states.empty()) {
    const std::vector<RunRecord> none;
    share_states(taken ? taken->progress.records : none, values[kHidden], assignment.states, group);
  }
  return assignment;
}

}  // namespace bipo
