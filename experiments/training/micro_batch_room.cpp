#include "experiments/training/micro_batch_room.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "collectives/device.hpp"
#include "collectives/device_graph.hpp"
#include "collectives/foundation/errors.hpp"
#include "experiments/progress/progress.hpp"
#include "experiments/training/run_record.hpp"
#include "trainer/cost/fitting_size.hpp"
#include "trainer/cost/micro_batch_memory.hpp"
#include "trainer/loop/device_step.hpp"
#include "trainer/model/decoder/decoder.hpp"

namespace bipo {
namespace {

// The plan's figure is within a tenth of what a device counts.
constexpr double kAtLeast = 0.9;

// A pass has every pair of a micro-batch once for each member, and twice under both signs.
RunShape shape_of(const JobPreparation& job, const std::vector<TrainOptions>& members) {
  const TrainOptions& options = members.front();
  const Computation& computation = job.computation;
  RunShape run;
  run.layer = options.layer.lowest();
  run.site = options.site;
  run.tp = computation.topology.tp();
  run.dp = computation.topology.dp();
  run.cuda = true;
  run.flash = computation.flash;
  run.bytes = element_bytes(computation, options.cache_dtype == Dtype::kBf16);
  run.pair = mean_pair(job.inputs.train);
  run.ways = 0;
  for (const TrainOptions& member : members) {
    run.ways += member.sign == SignRule::kBoth ? 2 : 1;
  }
  run.micro_pairs =
      run.ways * static_cast<double>(std::min(options.micro_batch.value(), options.batch_size));
  return run;
}

// Whether the activations of the training pairs at a layer are kept.
bool keeps_training_pairs(const JobPreparation& job) {
  std::uint64_t budget =
      job.options.cache_budget.value_or(std::numeric_limits<std::uint64_t>::max());
  return keeps_activations(job, job.inputs.train, /*layers=*/1, budget);
}

// Whether nothing keeps the device from recording.
bool can_record(const JobPreparation& job) {
  return records_graphs() &&
         graph_obstacle(job.inputs.config, job.computation.device, job.computation.topology.tp(),
                        keeps_training_pairs(job))
             .empty();
}

// What a training has on the device.
class TrainingRoom {
 public:
  TrainingRoom(const JobPreparation& job, const std::vector<TrainOptions>& members)
      : job_(job), run_(shape_of(job, members)) {
    for (const TrainOptions& member : members) {
      plans_.push_back(plan_settings(member, job.inputs.train));
    }
    const TrainOptions& options = members.front();
    run_.graphs = can_record(job);
    const ModelConfig& config = job.inputs.config;
    const bool keeps = keeps_training_pairs(job);
    const Range blocks = {keeps ? steered_layers(options).blocks_before() : 0, config.blocks};
    beside_ = weight_bytes(job, blocks, /*embedding=*/!keeps);
    keeps_on_device_ = keeps && options.cache_device == CacheDevice::kDevice;
    if (keeps_on_device_) {
      beside_ += activation_bytes(job, job.inputs.train);
    }
  }

  // Returns the bytes that the work on the largest micro-batch of so many pairs takes.
  double work(std::int64_t micro_batch) const {
    std::vector<BatchPlan> plans;
    for (PlanSettings plan : plans_) {
      plan.micro_batch = micro_batch;
      plans.emplace_back(std::move(plan));
    }
    return largest_micro_batch_bytes(job_.inputs.config, run_, job_.inputs.train, plans);
  }

  // Returns the largest size below `too_large` whose work takes `left` bytes at most; 0: none.
  std::int64_t largest_within(double left, std::int64_t too_large) const {
    return largest_fitting_size(too_large, [&](std::int64_t size) { return work(size) <= left; });
  }

  // Whether micro-batches are filled up and recorded; their graphs take as much again.
  bool records() const { return run_.graphs; }
  void end_recording() { run_.graphs = false; }

  // Bytes of weights and of activations that have to be on the device.
  std::uint64_t beside() const { return beside_; }
  bool keeps_on_device() const { return keeps_on_device_; }

  // Says what to do where the work on a micro-batch of this size has no room in `left` bytes, or
  // may have none.
  std::string remedy(double left, std::int64_t micro_batch) const {
    std::vector<std::string> remedies;
    if (plans_.size() > 1) {
      remedies.emplace_back("a lower --vectors-per-pass");
    }
    if (keeps_on_device_) {
      remedies.emplace_back("--cache-device auto");
    }
    if (job_.computation.product_type != c10::kBFloat16) {
      remedies.emplace_back("--dtype bf16");
    }
    remedies.emplace_back("a later --layer");
    return fmt::format("{}{} or a larger --tp", size_that_fits(left, micro_batch),
                       fmt::join(remedies, ", "));
  }

 private:
  std::string size_that_fits(double left, std::int64_t micro_batch) const {
    if (const std::int64_t fits = largest_within(left, micro_batch); fits > 0) {
      return fmt::format("--micro-batch {} fits; use it, ", fits);
    }
    if (kAtLeast * work(1) > left) {
      return "not even one pair fits; use ";
    }
    return micro_batch > 1 ? "--micro-batch 1 may fit; use it, " : "use ";
  }

  const JobPreparation& job_;
  std::vector<PlanSettings> plans_;  // of each member
  RunShape run_;
  std::uint64_t beside_ = 0;
  bool keeps_on_device_ = false;
};

}  // namespace

std::string reason_not_to_record(const JobPreparation& job,
                                 const std::vector<TrainOptions>& members) {
  const TrainOptions& options = members.front();
  const bool pays = job.computation.device.is_cpu() || options.cuda_graphs == CudaGraphs::kOn ||
                    !can_record(job) || graphs_pay(job.inputs.config, shape_of(job, members));
  return pays ? ""
              : "the device's work on a micro-batch takes longer than the host needs to ask for it";
}

void require_micro_batch_room(JobPreparation& job, const std::vector<TrainOptions>& members) {
  if (job.computation.device.is_cpu()) {
    return;
  }
  const TrainOptions& options = members.front();
  TrainingRoom room(job, members);
  const std::int64_t micro_batch =
      std::min(options.micro_batch.value(), options.batch_size);  // more are never together
  const std::uint64_t free = free_device_memory(job.computation.device);
  const double left = static_cast<double>(free - std::min(free, room.beside()));
  double work = room.work(micro_batch);
  if (room.records() && 2 * work > left) {
    room.end_recording();
    choose_graphs(false);
    work = room.work(micro_batch);
    job.unrecorded = "they have no room beside the work on a micro-batch";
  }
  job.work_bytes =
      std::max(job.work_bytes, static_cast<std::uint64_t>(room.records() ? 2 * work : work));
  if (work <= left) {
    return;
  }
  const std::string figures = fmt::format(
      "--micro-batch {}: the work on the largest micro-batch{} takes about {} per rank, and {} of "
      "{} are free beside the weights{}",
      micro_batch, members.size() > 1 ? fmt::format(" for {} vectors at once", members.size()) : "",
      gib_text(work), gib_text(left), gib_text(static_cast<double>(free)),
      room.keeps_on_device() ? " and the activations of all pairs" : "");
  const std::string advice = room.remedy(left, micro_batch);
  if (kAtLeast * work > left) {
    throw UserError(fmt::format("{}; {}", figures, advice));
  }
  job.warnings.push_back(
      fmt::format("{}: the run may end for want of memory; {}", figures, advice));
}

}  // namespace bipo
