#include "experiments/training/micro_batch_room.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "collectives/device.hpp"
#include "collectives/device_graph.hpp"
#include "collectives/foundation/errors.hpp"
#include "experiments/progress/progress.hpp"
#include "experiments/training/run_record.hpp"
#include "trainer/cache/activation_cache.hpp"
#include "trainer/cost/micro_batch_memory.hpp"
#include "trainer/loop/device_step.hpp"
#include "trainer/model/decoder/decoder.hpp"
#include "trainer/model/operators/operators.hpp"

namespace bipo {
namespace {

// The plan's figure is within a tenth of what a device counts.
constexpr double kAtLeast = 0.9;

// `vectors`: in one pass, which has every pair of a micro-batch as often, and twice under both
// signs.
RunShape shape_of(const JobPreparation& job, const TrainOptions& options, std::int64_t vectors) {
  const Computation& computation = job.computation;
  RunShape run;
  run.layer = options.layer.lowest();
  run.tp = computation.topology.tp();
  run.dp = computation.topology.dp();
  run.cuda = true;
  run.flash = computation.flash;
  run.bytes =
      element_bytes(computation.product_type == c10::kBFloat16, computation.emulated,
                    keeps_float_head(computation.device), options.cache_dtype == Dtype::kBf16);
  run.pair = mean_pair(job.inputs.train);
  const std::int64_t signs = options.sign == SignRule::kBoth ? 2 : 1;
  run.micro_pairs = static_cast<double>(signs * vectors *
                                        std::min(options.micro_batch.value(), options.batch_size));
  return run;
}

bool keeps_activations(const JobPreparation& job, const TrainOptions& options) {
  const std::uint64_t rows = ActivationCache::bytes_needed(
      job.inputs.config.hidden, job.inputs.train, cache_type(options.cache_dtype));
  return rows <= options.cache_budget.value_or(rows);
}

// Whether nothing keeps the device from recording.
bool can_record(const JobPreparation& job, const TrainOptions& options) {
  return records_graphs() &&
         graph_obstacle(job.inputs.config, job.computation.device, job.computation.topology.tp(),
                        keeps_activations(job, options))
             .empty();
}

// What a training has on the device.
class TrainingRoom {
 public:
  TrainingRoom(const JobPreparation& job, const TrainOptions& options, std::int64_t vectors)
      : job_(job), options_(options), vectors_(vectors), run_(shape_of(job, options, vectors)) {
    run_.graphs = can_record(job, options);
    const ModelConfig& config = job.inputs.config;
    const Computation& computation = job.computation;
    const bool keeps = keeps_activations(job, options);
    const Range blocks = {keeps ? options.layer.lowest() + 1 : 0, config.blocks};
    beside_ = Decoder::weight_bytes(config, computation.topology.tp(),
                                    computation.topology.tp_rank(), computation.product_type,
                                    computation.device, blocks, /*embedding=*/!keeps);
    if (keeps && options.cache_device == CacheDevice::kDevice) {
      beside_ += ActivationCache::bytes_needed(config.hidden, job.inputs.train,
                                               cache_type(options.cache_dtype));
    }
  }

  // Returns the bytes that the work on the largest micro-batch of so many pairs takes.
  double work(std::int64_t micro_batch) const {
    PlanSettings plan = plan_settings(options_, job_.inputs.train);
    plan.micro_batch = micro_batch;
    return static_cast<double>(vectors_) *
           largest_micro_batch_bytes(job_.inputs.config, run_, job_.inputs.train, BatchPlan(plan));
  }

  // Returns the largest size below `too_large` whose work takes `left` bytes at most; 0: none.
  std::int64_t largest_within(double left, std::int64_t too_large) const {
    std::int64_t fits = 0;
    while (too_large - fits > 1) {
      const std::int64_t middle = fits + (too_large - fits) / 2;
      (work(middle) <= left ? fits : too_large) = middle;
    }
    return fits;
  }

  // Whether micro-batches are filled up and recorded; their graphs take as much again.
  bool records() const { return run_.graphs; }
  void end_recording() { run_.graphs = false; }

  // Bytes of weights and of activations that have to be on the device.
  std::uint64_t beside() const { return beside_; }

 private:
  const JobPreparation& job_;
  const TrainOptions& options_;
  std::int64_t vectors_;
  RunShape run_;
  std::uint64_t beside_ = 0;
};

std::string remedy(std::int64_t fits, std::int64_t vectors) {
  std::string text = fits > 0 ? fmt::format("--micro-batch {} fits; use it, ", fits)
                              : std::string("not even one pair fits; use ");
  if (vectors > 1) {
    text += "a lower --vectors-per-pass, ";
  }
  return text + "--dtype bf16, a later layer or a larger --tp";
}

}  // namespace

std::string reason_not_to_record(const JobPreparation& job, const TrainOptions& options,
                                 std::int64_t vectors) {
  const bool pays = job.computation.device.is_cpu() || options.cuda_graphs == CudaGraphs::kOn ||
                    !can_record(job, options) ||
                    graphs_pay(job.inputs.config, shape_of(job, options, vectors));
  return pays ? ""
              : "the device's work on a micro-batch takes longer than the host needs to ask for it";
}

void require_micro_batch_room(JobPreparation& job, const TrainOptions& options,
                              std::int64_t vectors) {
  if (job.computation.device.is_cpu()) {
    return;
  }
  TrainingRoom room(job, options, vectors);
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
      "{} are free beside the weights",
      micro_batch, vectors > 1 ? fmt::format(" for {} vectors at once", vectors) : "",
      gib_text(work), gib_text(left), gib_text(static_cast<double>(free)));
  const std::string advice = remedy(room.largest_within(left, micro_batch), vectors);
  if (kAtLeast * work > left) {
    throw UserError(fmt::format("{}; {}", figures, advice));
  }
  job.warnings.push_back(
      fmt::format("{}: the run may end for want of memory; {}", figures, advice));
}

}  // namespace bipo
