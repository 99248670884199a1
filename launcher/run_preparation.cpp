#include "launcher/run_preparation.hpp"

#include <ATen/Context.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "collectives/content_hash.hpp"
#include "collectives/errors.hpp"
#include "launcher/machine.hpp"
#include "trainer/model/graph.hpp"

namespace bipo {
namespace {

constexpr double kGiB = 1 << 30;

// More ranks or threads than any machine has; what is larger is a slip, and would not fit an int.
constexpr std::int64_t kMostRanks = 1 << 20;

void check_counts(const TrainOptions& options) {
  const auto check = [](const char* name, std::int64_t value) {
    if (value > kMostRanks) {
      throw UserError(fmt::format("--{} {}: at most {}", name, value, kMostRanks));
    }
  };
  check("tp", options.tp);
  check("dp", options.dp.value_or(1));
  check("threads", options.threads.value_or(1));
}

// The run that an existing --out leads to: none, or the one to continue.
std::optional<RunRecord> find_previous(const TrainOptions& options) {
  std::error_code unreachable;  // check_writable() says what is wrong with such a path
  if (!std::filesystem::exists(options.out, unreachable)) {
    return std::nullopt;
  }
  if (options.resume) {
    return read_run_file(options.out);
  }
  if (!options.overwrite) {
    throw UserError(
        fmt::format("--out {}: exists already; continue it with --resume, replace it with "
                    "--overwrite, or name another file",
                    options.out.string()));
  }
  return std::nullopt;
}

std::int64_t choose_micro_batch(const TrainOptions& options, std::int64_t pairs,
                                const Topology& topology,
                                const std::optional<RunRecord>& previous) {
  if (options.micro_batch) {
    return *options.micro_batch;
  }
  if (previous) {
    return stored_integer(previous->attributes.config, "micro_batch");
  }
  return std::max<std::int64_t>(1, std::min(options.batch_size, pairs) / topology.dp());
}

PlanSettings plan_settings(const RunSettings& settings, std::size_t pairs) {
  const TrainOptions& options = settings.options;
  PlanSettings plan;
  plan.pairs = static_cast<std::int64_t>(pairs);
  plan.batch_size = options.batch_size;
  plan.micro_batch = settings.micro_batch;
  plan.epochs = options.epochs;
  plan.max_steps = options.max_steps;
  plan.seed = options.seed;
  plan.shuffle = options.shuffle;
  plan.sign = parse_sign_rule(options.sign);
  return plan;
}

void choose_device_and_types(Preparation& run, const Session& session) {
  const TrainOptions& options = run.settings.options;
  if (options.deterministic) {
    setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  }
  run.device = choose_device(options.device, session.local_rank(), session.local_size());
  select_device(run.device);
  const bool cuda = run.device.is_cuda();
  run.settings.device = cuda ? "cuda" : "cpu";
  run.settings.dtype = options.dtype != "auto" ? options.dtype : cuda ? "bf16" : "fp32";
  run.settings.backend = session.size() == 1 ? "self" : cuda ? "nccl" : "mpi";
  run.product_type = run.settings.dtype == "bf16" ? c10::kBFloat16 : c10::kFloat;
}

// What is free beside the weights, half of it for cached activations unless the user says
// otherwise.
std::uint64_t choose_cache_budget(const Preparation& run, const Session& session) {
  const std::uint64_t available = memory_per_rank(run.device, session.local_size());
  const Topology& topology = *run.topology;
  const std::uint64_t weights = Decoder::weight_bytes(
      run.inputs.config, topology.tp(), topology.tp_rank(), run.product_type, run.device);
  if (weights > available) {
    throw UserError(fmt::format(
        "the model's weights take {:.2f} GiB per rank at --tp {} in this --dtype, but "
        "{:.2f} GiB are free for each rank; raise --tp, use --dtype bf16, or start "
        "fewer ranks per node",
        static_cast<double>(weights) / kGiB, topology.tp(), static_cast<double>(available) / kGiB));
  }
  const std::uint64_t free = available - weights;
  return std::min(run.settings.options.cache_budget.value_or(free / 2), free);
}

void collect_warnings(Preparation& run) {
  const BatchPlan plan(run.plan);
  auto& warnings = run.warnings;
  warnings.insert(warnings.end(), run.inputs.warnings.begin(), run.inputs.warnings.end());
  const std::int64_t warmup_steps = run.settings.options.warmup_steps;
  if (warmup_steps >= plan.total_steps()) {
    warnings.push_back(fmt::format(
        "the warm-up of {} steps is as long as the run or longer ({} steps): the learning rate "
        "never reaches --lr; lower --warmup-steps",
        warmup_steps, plan.total_steps()));
  }
  const StepPlan first = plan.step(0);
  const auto busy = static_cast<std::int64_t>(first.micro_batches.size());
  const std::int64_t dp = run.topology->dp();
  if (busy < dp) {
    warnings.push_back(fmt::format(
        "{} of {} replicas idle: a batch of {} in micro-batches of {} gives work to {}; lower "
        "--micro-batch, raise --batch-size, or use --tp",
        dp - busy, dp, first.pairs, run.settings.micro_batch, busy));
  }
}

}  // namespace

Preparation prepare_run(const TrainOptions& options, const Session& session) {
  Preparation run;
  run.settings.options = options;
  check_counts(options);
  const auto dp = options.dp ? std::optional(static_cast<int>(*options.dp)) : std::nullopt;
  run.topology.emplace(session.size(), session.rank(), static_cast<int>(options.tp), dp);
  run.previous = find_previous(options);
  if (session.rank() == 0) {
    check_writable(options.out);
  }
  run.inputs = read_training_inputs(options);
  plan_shard(run.inputs.config, options.tp, run.topology->tp_rank());
  choose_device_and_types(run, session);
  run.settings.threads =
      choose_threads(options.threads, session.local_size(), session.node_cores());
  run.settings.micro_batch = choose_micro_batch(
      options, static_cast<std::int64_t>(run.inputs.train.size()), *run.topology, run.previous);
  run.plan = plan_settings(run.settings, run.inputs.train.size());
  run.settings.cache_budget = choose_cache_budget(run, session);

  run.config = settings_to_json(run.settings, run.inputs, *run.topology);
  if (run.previous) {
    const std::string& stored = run.previous->attributes.config;
    check_same_settings(stored, run.config, options.out.string());
    run.warnings = harmless_differences(stored, run.config);
  }
  collect_warnings(run);
  const std::int64_t steps_done = run.previous ? run.previous->checkpoint.step : -1;
  const bool complete = run.previous && run.previous->attributes.status == RunStatus::kComplete;
  ContentHash agreement;
  agreement.add(fmt::format("{} {} {}", result_settings(run.config), steps_done, complete));
  run.agreement = agreement.value();
  return run;
}

}  // namespace bipo
