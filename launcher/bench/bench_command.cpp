// The command `bench`: times a few training steps and compares them with the machine's peak.
#include "launcher/bench/bench.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "collectives/communicator.hpp"
#include "collectives/device_graph.hpp"
#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "collectives/profile.hpp"
#include "experiments/job/computation.hpp"
#include "experiments/job/job.hpp"
#include "experiments/job/machine.hpp"
#include "experiments/settings/field.hpp"
#include "experiments/training/prepared_model.hpp"
#include "launcher/bench/bench_report.hpp"
#include "launcher/bench/machine_peak.hpp"
#include "launcher/bench/sample_pairs.hpp"
#include "trainer/cache/activation_cache.hpp"
#include "trainer/loop/training.hpp"
#include "trainer/model/decoder/decoder.hpp"
#include "trainer/model/model_files.hpp"
#include "trainer/model/weights/weights.hpp"

namespace bipo {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kWeightSeed = 1;

// Steps after the timed ones, in which the time of each kind of work is measured.
constexpr std::int64_t kMostProfiledSteps = 5;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Everything that is decided before the ranks begin to work.
struct BenchSetup {
  BenchOptions options;
  ModelConfig config;
  std::unique_ptr<WeightSource> weights;
  std::uint64_t model_fingerprint = 0;
  std::uint64_t weights_hash = 0;  // needed, and found, only where activations are kept
  std::vector<TokenPair> pairs;
  Computation computation;
  std::int64_t micro_batch = 1;
  std::uint64_t cache_budget = 0;  // bytes per node
  std::uint64_t agreement = 0;     // equal on ranks that measure the same

  std::int64_t profiled_steps() const { return std::min(options.steps, kMostProfiledSteps); }
  std::int64_t all_steps() const { return options.warmup + options.steps + profiled_steps(); }
};

std::vector<TokenPair> available_pairs(const BenchOptions& options, const ModelConfig& config,
                                       std::int64_t wanted) {
  if (options.train.empty()) {
    return make_pairs(options.lengths, wanted, config);
  }
  return read_pairs(options.train, options.source.model, config, options).pairs;
}

// Returns whole batches only, so that all steps are equally long.
std::vector<TokenPair> pairs_to_use(const BenchOptions& options, const ModelConfig& config) {
  const std::int64_t batch = options.batch_size;
  const std::int64_t wanted = options.pairs.value_or(batch * (options.warmup + options.steps));
  std::vector<TokenPair> pairs = available_pairs(options, config, wanted);
  const auto available = static_cast<std::int64_t>(pairs.size());
  const std::int64_t used = std::min(wanted, available) / batch * batch;
  if (used == 0) {
    throw UserError(
        fmt::format("{} pairs do not fill a batch of {}; lower --batch-size or give more pairs",
                    std::min(wanted, available), batch));
  }
  pairs.resize(static_cast<std::size_t>(used));
  return pairs;
}

RunShape run_shape(const BenchSetup& setup) {
  RunShape run;
  run.layer = setup.options.layer.lowest();
  run.site = setup.options.site;
  run.tp = setup.computation.topology.tp();
  run.dp = setup.computation.topology.dp();
  run.cuda = !setup.computation.device.is_cpu();
  run.flash = setup.computation.flash;
  run.graphs = run.cuda && run.tp == 1 && !setup.config.delta_net && records_graphs();
  run.pairs = static_cast<double>(setup.pairs.size());
  run.without_reference = uses_reference(setup.options.objective) ? 0 : run.pairs;
  run.pair = mean_pair(setup.pairs);
  run.micro_pairs = static_cast<double>(setup.micro_batch);
  run.packs_prefix =
      run.cuda || Decoder::has_independent_rows(setup.config, setup.computation.product_type,
                                                setup.computation.device, run.tp);
  run.bytes = element_bytes(setup.computation, setup.options.cache_dtype == Dtype::kBf16);
  return run;
}

BenchSetup prepare(const BenchOptions& options, const Session& session) {
  BenchSetup setup;
  setup.options = options;
  const Topology topology = arrange_ranks(options, std::nullopt, session);
  setup.config = read_chosen_config(options.source, options.layer);
  plan_shard(setup.config, options.tp, topology.tp_rank());
  if (options.source.shape.empty()) {
    ModelFiles model = open_model(options.source.model, options.adapter);
    setup.weights = std::move(model.weights);
    setup.model_fingerprint = model.fingerprint;
  } else {
    setup.weights = make_synthetic_weights(setup.config, kWeightSeed);
    setup.model_fingerprint = setup.weights->fingerprint();
  }
  if (!options.cache_dir.empty()) {
    setup.weights_hash = hash_of_weights(*setup.weights, {options.cache_dir, options.cache_shared});
  }
  setup.pairs = pairs_to_use(options, setup.config);
  setup.computation = choose_computation(options, setup.config, topology, session);
  setup.micro_batch =
      options.micro_batch.value_or(std::max<std::int64_t>(1, options.batch_size / topology.dp()));
  if (!setup.computation.device.is_cpu() && options.cuda_graphs != CudaGraphs::kOn &&
      !graphs_pay(setup.config, run_shape(setup))) {
    choose_graphs(false);
  }
  if (session.local_rank() == 0 && !options.cache_dir.empty()) {
    prepare_cache_directory(options.cache_dir, options.cache_shared);
  }
  const std::uint64_t free = memory_per_rank(c10::Device(c10::kCPU), 1);
  setup.cache_budget = std::min(options.cache_budget.value_or(free / 2), free);
  ContentHash agreement;
  agreement.add(fmt::format("{} {} {} {} {} {}", setup.model_fingerprint, setup.weights_hash,
                            tokens_hash(setup.pairs), to_string(options.layer), setup.all_steps(),
                            to_string(options.objective)));
  agreement.add(setup.computation.kernels);
  setup.agreement = agreement.value();
  return setup;
}

// Records the durations of the counted steps, then a profile of the steps after them.
class TimingObserver final : public TrainingObserver {
 public:
  TimingObserver(const BenchSetup& setup, ProgressDisplay& display)
      : setup_(setup), display_(display) {}

  void on_step(const StepRow& row) override {
    const std::int64_t done = row.step + 1;
    const std::int64_t counted_end = setup_.options.warmup + setup_.options.steps;
    if (done > setup_.options.warmup && done <= counted_end) {
      step_seconds_.push_back(row.seconds);
    }
    if (done > counted_end) {
      profiled_seconds_ += row.seconds;
    }
    display_.phase("step", done, setup_.all_steps());
    if (done == counted_end) {
      take_profile(setup_.computation.device);
    }
    if (done == setup_.all_steps()) {
      work_ = profiled_seconds();
      take_profile(std::nullopt);
    }
  }

  void on_evaluation(const std::vector<EvalRow>&) override {}
  void on_failure(const std::string& reason) override { throw EnvironmentError(reason); }
  void save(const TrainingRecord&, RunStatus) override {}
  bool stop_requested() const override { return false; }

  const std::vector<double>& step_seconds() const { return step_seconds_; }

  // Scales the profile's shares to `step_seconds`: profiling lengthens a step.
  StepSeconds breakdown(double step_seconds) const {
    const auto part = [&](Work work) {
      return work_[static_cast<std::size_t>(work)] / profiled_seconds_ * step_seconds;
    };
    StepSeconds seconds{part(Work::kProducts),
                        part(Work::kAttention),
                        part(Work::kRecurrence),
                        part(Work::kHead),
                        part(Work::kElementwise),
                        part(Work::kCollectives),
                        0};
    seconds.other = std::max(0.0, step_seconds - seconds.total());
    return seconds;
  }

 private:
  const BenchSetup& setup_;
  ProgressDisplay& display_;
  std::vector<double> step_seconds_;
  double profiled_seconds_ = 0;
  WorkSeconds work_{};
};

TrainingSettings training_settings(const BenchSetup& setup) {
  TrainingSettings training;
  PlanSettings& plan = training.plan;
  plan.pairs = static_cast<std::int64_t>(setup.pairs.size());
  plan.batch_size = setup.options.batch_size;
  plan.micro_batch = setup.micro_batch;
  plan.epochs = setup.all_steps();  // the limit of steps comes first
  plan.max_steps = setup.all_steps();
  plan.shuffle = false;
  plan.costs = packed_sizes(setup.pairs);
  plan.sign = projects_out(setup.options.objective) ? SignRule::kBoth : SignRule::kPlus;
  training.objective.kind = setup.options.objective;
  training.objective.reduction = own_reduction(setup.options.objective);
  training.warmup_steps = 0;
  training.eval_every = 0;
  training.save_every = 1e9;
  return training;
}

CacheSettings cache_settings(const BenchSetup& setup, const Ranks& ranks,
                             ProgressDisplay& display) {
  CacheSettings cache;
  cache.layers = {setup.options.layer.lowest()};
  cache.site = setup.options.site;
  cache.group_size = setup.micro_batch;
  cache.reference = uses_reference(setup.options.objective);
  cache.type = cache_type(setup.options.cache_dtype);
  cache.place = cache_place(setup.options.cache_device);
  cache.directory = setup.options.cache_dir;
  cache.trusts_others = setup.options.cache_shared;
  cache.warn = [&display](const std::string& text) { display.warn(text); };
  cache.key = cache_key({setup.model_fingerprint, setup.weights_hash, tokens_hash(setup.pairs),
                         setup.computation, setup.options.deterministic, ranks.topology.tp()});
  const std::uint64_t budget = all_reduced(setup.cache_budget, ReduceOp::kMin, *ranks.world);
  cache.keep =
      ActivationCache::bytes_needed(setup.config.hidden, setup.pairs, cache.type) <= budget;
  return cache;
}

// Runs the pipeline of `train`, from weights to the last step.
void run_training(const BenchSetup& setup, const Ranks& ranks, ProgressDisplay& display,
                  BenchReport& report) {
  Decoder decoder(setup.config, *setup.weights, setup.computation.product_type,
                  setup.computation.device, *ranks.tp);
  const CacheSettings settings = cache_settings(setup, ranks, display);
  ActivationCache cache(decoder, setup.pairs, settings, ranks);
  const auto begin = Clock::now();
  run_prefix_pass(decoder, {&cache}, ranks, display);
  report.prefix_seconds = seconds_since(begin);
  report.cache_kept = settings.keep;
  report.cache_bytes =
      ActivationCache::bytes_needed(setup.config.hidden, setup.pairs, settings.type);
  report.weight_bytes = decoder.loaded_bytes();

  const TrainingSettings training = training_settings(setup);
  TrainingRecord record =
      starting_record(setup.options.layer.count() * setup.config.hidden, training.plan.seed);
  TimingObserver observer(setup, display);
  train(decoder, cache, nullptr, steered_layers(setup.options), {{training, record, observer}},
        ranks);
  report.step_seconds = observer.step_seconds();
  report.breakdown = observer.breakdown(report.median_step_seconds());
}

// Over the suffix, in a step.
double passes_of(const BenchSetup& setup) {
  return projects_out(setup.options.objective) ? 2 : 1;
}

StepSeconds of_micro_batch(const StepSeconds& step, double micro_batches) {
  return {step.products / micro_batches,    step.attention / micro_batches,
          step.recurrence / micro_batches,  step.head / micro_batches,
          step.elementwise / micro_batches, step.collectives / micro_batches,
          step.other / micro_batches};
}

// Adds the plan for this very run from the machine's rates alone, and the shares that the run
// reached.
void add_plan(const BenchSetup& setup, double product_rate, double copy_rate, BenchReport& report) {
  const RunShape run = run_shape(setup);
  const double batch = passes_of(setup) * static_cast<double>(setup.options.batch_size);
  const MachineSpeed typical = run.cuda ? typical_gpu(product_rate, copy_rate, copy_rate / 8)
                                        : typical_cpu(product_rate, copy_rate);
  report.planned_step_seconds = step_seconds(setup.config, run, typical, batch).total();
  report.planned_prefix_seconds = prefix_seconds(setup.config, run, typical);
  const RankMemory memory = rank_memory(setup.config, run);
  report.planned_memory_bytes = memory.peak(report.cache_kept && !run.cuda);
  const double micro_batches_of_rank =
      report.planned_step_seconds / micro_batch_seconds(setup.config, run, typical).total();
  report.speed = calibrated(setup.config, run, typical,
                            of_micro_batch(report.breakdown, micro_batches_of_rank));
}

BenchReport described(const BenchSetup& setup) {
  const BenchOptions& options = setup.options;
  const TokenCounts pair = mean_pair(setup.pairs);
  const auto batch = static_cast<double>(options.batch_size);
  BenchReport report;
  report.model =
      options.source.shape.empty() ? options.source.model.string() : options.source.shape;
  report.blocks = setup.config.blocks;
  report.layer = steered_layers(options);
  report.dtype = name_of(setup.computation.dtype);
  report.device = name_of(setup.computation.kind);
  report.backend = setup.computation.backend;
  report.world = setup.computation.topology.world();
  report.dp = setup.computation.topology.dp();
  report.tp = setup.computation.topology.tp();
  report.threads = setup.computation.threads.threads;
  report.batch_size = options.batch_size;
  report.micro_batch = setup.micro_batch;
  report.pairs = static_cast<std::int64_t>(setup.pairs.size());
  report.objective = to_string(options.objective);
  report.warmup = options.warmup;
  report.tokens_per_step = batch * pair.tokens;
  report.answers_per_step = batch * pair.answers;
  report.floor_flops_per_step =
      passes_of(setup) * floor_operations(setup.config, options.layer.lowest(),
                                          report.tokens_per_step, report.answers_per_step,
                                          options.site);
  return report;
}

// Collective over: world
BenchReport measure(const BenchSetup& setup, const Session& session, const Ranks& ranks,
                    ProgressDisplay& display) {
  BenchReport report = described(setup);
  const auto tokens = static_cast<std::int64_t>(report.tokens_per_step /
                                                static_cast<double>(setup.options.batch_size) *
                                                static_cast<double>(setup.micro_batch));
  // All ranks measure at once, as in the run.
  const auto product_rate = [&] {
    ranks.world->barrier();
    return measure_product_rate(setup.config, setup.computation.topology.tp(),
                                setup.computation.topology.tp_rank(), tokens,
                                setup.computation.product_type, setup.computation.device);
  };
  const auto copy_rate = [&] {
    ranks.world->barrier();
    return measure_copy_rate(setup.computation.device);
  };
  double product = product_rate();
  double copy = copy_rate();
  report.free_memory_bytes = memory_per_rank(setup.computation.device, session.local_size());
  reset_peak_memory(setup.computation.device);
  run_training(setup, ranks, display, report);
  report.peak_memory_bytes =
      all_reduced(peak_memory_bytes(setup.computation.device), ReduceOp::kMax, *ranks.world);
  report.weight_bytes = all_reduced(report.weight_bytes, ReduceOp::kMax, *ranks.world);
  // Other work on the machine may have slowed either measurement.
  product = std::max(product, product_rate());
  copy = std::max(copy, copy_rate());
  report.peak_flops = all_reduced(product, ReduceOp::kSum, *ranks.world);
  report.copy_bytes_per_second = all_reduced(copy, ReduceOp::kSum, *ranks.world);
  add_plan(setup, product, copy, report);
  return report;
}

}  // namespace

int run_bench_command(const BenchOptions& options, Session& session) {
  Job job(session);
  const BenchSetup setup =
      job.prepare([&] { return prepare(options, session); }, "what is measured");
  const Ranks ranks = job.begin(setup.computation, {}, {});
  const BenchReport report = measure(setup, session, ranks, job.display());
  job.display().finish();
  if (job.is_root()) {
    fmt::print("{}", options.json ? bench_json(report) : bench_text(report));
  }
  return kExitDone;
}

}  // namespace bipo
