// The plan of a run: the fastest arrangement of ranks that fits, with its memory and time.
#include "trainer/cost/run_plan.hpp"

#include <algorithm>
#include <vector>

#include "trainer/model/sharding/sharding.hpp"

namespace bipo {
namespace {

// The usable share of a device's memory: allocators cannot use the rest.
constexpr double kUsableShare = 0.92;

std::int64_t devices_of_node(const PlannedMachine& machine) {
  return machine.devices_per_node == 0 ? machine.devices : machine.devices_per_node;
}

std::vector<std::int64_t> possible_tp(const PlanRequest& request) {
  if (request.tp) {
    plan_shard(request.config, *request.tp, 0);
    return {*request.tp};
  }
  // A replica stays within a node.
  const std::int64_t of_node = devices_of_node(request.machine);
  std::vector<std::int64_t> sizes;
  for (std::int64_t tp = 1; tp <= std::min(of_node, request.config.heads); ++tp) {
    if (of_node % tp == 0) {
      sizes.push_back(tp);
    }
  }
  return sizes;
}

// The size that gives every replica one, and its halvings.
std::vector<std::int64_t> possible_micro_batches(const PlanRequest& request, std::int64_t dp) {
  if (request.micro_batch) {
    return {*request.micro_batch};
  }
  std::vector<std::int64_t> sizes;
  for (auto size = std::max<std::int64_t>(1, request.batch_size / dp); size >= 1; size /= 2) {
    sizes.push_back(size);
  }
  return sizes;
}

// Both directions of a step are in one pass.
RunShape pass_of(const PlanRequest& request, RunShape shape) {
  shape.ways = static_cast<double>(request.passes);
  shape.micro_pairs *= shape.ways;
  return shape;
}

bool wants_graphs(const PlanRequest& request, const RunShape& shape) {
  if (request.graphs == GraphUse::kNone) {
    return false;
  }
  return request.graphs == GraphUse::kWherePossible
             ? can_have_graphs(request.config, shape)
             : graphs_pay(request.config, pass_of(request, shape));
}

RunShape shape_of(const PlanRequest& request, std::int64_t tp, std::int64_t micro_batch) {
  RunShape shape;
  shape.layer = request.layer.lowest();
  shape.site = request.layer.site();
  shape.tp = tp;
  shape.dp = request.machine.devices / tp;
  shape.ranks_per_node = request.machine.devices_per_node;
  shape.cuda = request.machine.cuda;
  shape.flash = request.flash;
  shape.pairs = static_cast<double>(request.train_pairs + request.test_pairs);
  shape.without_reference = request.uses_reference ? 0 : static_cast<double>(request.train_pairs);
  shape.pair = request.pair;
  shape.micro_pairs = static_cast<double>(micro_batch);
  shape.packs_prefix = request.packs_prefix;
  shape.device_bytes = request.machine.cuda ? request.machine.memory_bytes : 0;
  shape.bytes = request.bytes;
  shape.graphs = wants_graphs(request, shape);
  return shape;
}

// What the ranks of a node share counts in equal parts.
double peak_of(const PlanRequest& request, const RankMemory& memory) {
  const double shared = request.machine.cuda
                            ? 0
                            : memory.cache / static_cast<double>(devices_of_node(request.machine));
  return memory.peak(/*with_cache=*/false) + shared;
}

RunPlan memory_plan(const PlanRequest& request, const RunShape& shape) {
  RunPlan plan;
  plan.shape = shape;
  plan.memory = rank_memory(request.config, pass_of(request, shape));
  plan.peak_bytes = peak_of(request, plan.memory);
  plan.fits = plan.peak_bytes <= kUsableShare * request.machine.memory_bytes;
  return plan;
}

RunPlan plan_of(const PlanRequest& request, RunShape shape) {
  RunPlan plan = memory_plan(request, shape);
  if (shape.graphs && !plan.fits) {  // training then does without them
    shape.graphs = false;
    plan = memory_plan(request, shape);
    plan.lacks_room_for_graphs = true;
  }
  plan.step = step_seconds(request.config, shape, request.machine.speed,
                           static_cast<double>(request.batch_size * request.passes));
  return plan;
}

bool is_better(const RunPlan& plan, const RunPlan& other) {
  if (plan.fits != other.fits) {
    return plan.fits;
  }
  return plan.fits ? plan.step.total() < other.step.total() : plan.peak_bytes < other.peak_bytes;
}

RunPlan best_arrangement(const PlanRequest& request) {
  std::optional<RunPlan> best;
  for (const std::int64_t tp : possible_tp(request)) {
    for (const std::int64_t size : possible_micro_batches(request, request.machine.devices / tp)) {
      const RunPlan plan = plan_of(request, shape_of(request, tp, size));
      if (!best || is_better(plan, *best)) {
        best = plan;
      }
    }
  }
  return *best;
}

std::int64_t rounded_up(std::int64_t count, std::int64_t size) {
  return (count + size - 1) / size;
}

}  // namespace

RunPlan make_plan(const PlanRequest& request) {
  RunPlan plan = best_arrangement(request);
  const MachineSpeed& speed = request.machine.speed;
  const std::int64_t of_epoch = rounded_up(request.train_pairs, request.batch_size);
  plan.steps = request.epochs * of_epoch;
  if (request.max_steps > 0) {
    plan.steps = std::min(plan.steps, request.max_steps);
  }
  plan.training_seconds = static_cast<double>(plan.steps) * plan.step.total();
  const std::int64_t evaluations =
      request.eval_every == 0 ? 0
                              : rounded_up(rounded_up(plan.steps, of_epoch), request.eval_every);
  plan.evaluation_seconds = static_cast<double>(evaluations * request.multipliers) *
                            evaluation_seconds(request.config, plan.shape, speed,
                                               static_cast<double>(request.test_pairs));
  plan.prefix_seconds = prefix_seconds(request.config, plan.shape, speed);
  plan.run_seconds = plan.prefix_seconds + plan.training_seconds + plan.evaluation_seconds;
  plan.sweep_seconds = plan.prefix_seconds + static_cast<double>(request.cells) *
                                                 (plan.training_seconds + plan.evaluation_seconds);
  return plan;
}

}  // namespace bipo
