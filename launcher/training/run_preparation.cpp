#include "launcher/training/run_preparation.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "experiments/files/atomic_file.hpp"
#include "launcher/job/computation.hpp"
#include "launcher/job/machine.hpp"
#include "launcher/job/new_file.hpp"
#include "launcher/job/template_dates.hpp"
#include "launcher/training/cache_files.hpp"
#include "launcher/training/plan_warnings.hpp"
#include "trainer/cache/activation_cache.hpp"
#include "trainer/model/decoder/decoder.hpp"
#include "trainer/model/operators/operators.hpp"
#include "trainer/passes/packing.hpp"

namespace bipo {
namespace {

// The run that an existing --out leads to: none, or the one to continue.
std::optional<RunRecord> find_previous(const TrainOptions& options) {
  std::error_code unreachable;  // check_replaceable() says what is wrong with such a path
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

void choose_types(JobPreparation& run, const Session& session) {
  Computation computation = choose_computation(run.settings.options, *run.topology, session);
  run.device = computation.device;
  run.product_type = computation.product_type;
  run.settings.device = std::move(computation.device_name);
  run.settings.dtype = std::move(computation.dtype);
  run.settings.backend = std::move(computation.backend);
  run.settings.emulated = run.product_type == c10::kBFloat16 && emulates_bfloat16(run.device);
  const std::string& cache_dtype = run.settings.options.cache_dtype;
  run.settings.cache_dtype = cache_dtype == "auto" ? "fp32" : cache_dtype;
}

void add_plan_warnings(Preparation& run) {
  const RunSettings& settings = run.job.settings;
  for (std::string& warning :
       plan_warnings(BatchPlan(run.plan), settings.options.warmup_steps, settings.micro_batch,
                     run.job.topology->dp(), {"the run", "--lr", ""})) {
    run.job.warnings.push_back(std::move(warning));
  }
}

}  // namespace

JobPreparation prepare_job(const TrainOptions& options, const Topology& topology,
                           std::optional<std::int64_t> micro_batch, const Session& session) {
  JobPreparation job;
  job.settings.options = options;
  job.topology.emplace(topology);
  job.inputs = read_training_inputs(options);
  job.warnings = job.inputs.warnings;
  plan_shard(job.inputs.config, options.tp, job.topology->tp_rank());
  choose_types(job, session);
  job.settings.threads =
      choose_threads(options.threads, session.local_size(), session.node_cores());
  const auto pairs = static_cast<std::int64_t>(job.inputs.train.size());
  const std::int64_t dealt =
      std::max<std::int64_t>(1, std::min(options.batch_size, pairs) / job.topology->dp());
  job.settings.micro_batch =
      options.micro_batch ? *options.micro_batch : micro_batch.value_or(dealt);
  if (session.local_rank() == 0 && !options.cache_dir.empty()) {
    prepare_cache_directory(options.cache_dir);
  }
  return job;
}

// Weights come first; of what they leave of the node's memory, caches take half unless the user
// says otherwise.  Where the caches do not fit, every block stays.
void choose_cache_budget(JobPreparation& job, const std::vector<std::int64_t>& layers,
                         const Session& session) {
  const ModelConfig& config = job.inputs.config;
  const Topology& topology = *job.topology;
  const auto local_ranks = static_cast<std::uint64_t>(session.local_size());
  const std::uint64_t available = memory_per_rank(job.device, session.local_size());
  const auto weights = [&](std::int64_t blocks) {
    return Decoder::weight_bytes(config, topology.tp(), topology.tp_rank(), job.product_type,
                                 job.device, blocks, /*embedding=*/true);
  };
  const auto require = [&](std::uint64_t bytes, const char* what) {
    require_memory(what, bytes, available, topology.tp());
  };
  // One block of the prefix at a time, beside the suffix.
  const std::uint64_t resident = weights(std::min(config.blocks, config.blocks - layers.front()));
  require(resident, "the weights of the blocks after --layer, with the head, take");
  const std::uint64_t host = memory_per_rank(c10::Device(c10::kCPU), 1);
  const std::uint64_t on_host = job.device.is_cpu() ? resident * local_ranks : 0;
  const std::uint64_t free = host - std::min(host, on_host);
  job.settings.cache_budget = std::min(job.settings.options.cache_budget.value_or(free / 2), free);

  const auto type = job.settings.cache_dtype == "bf16" ? c10::kBFloat16 : c10::kFloat;
  const std::uint64_t needed =
      ActivationCache::bytes_needed(config.hidden, job.inputs.train, type) *
      static_cast<std::uint64_t>(layers.size());
  if (needed > job.settings.cache_budget) {
    require(weights(config.blocks),
            "the activations do not fit into the cache, and the model's weights take");
  }
}

PlanSettings plan_settings(const RunSettings& settings, const std::vector<TokenPair>& pairs) {
  const TrainOptions& options = settings.options;
  PlanSettings plan;
  plan.pairs = static_cast<std::int64_t>(pairs.size());
  plan.batch_size = options.batch_size;
  plan.micro_batch = settings.micro_batch;
  plan.epochs = options.epochs;
  plan.max_steps = options.max_steps;
  plan.seed = options.seed;
  plan.shuffle = options.shuffle;
  plan.sign = parse_sign_rule(options.sign);
  plan.costs = packed_sizes(pairs);
  return plan;
}

Preparation prepare_run(const TrainOptions& given, const std::string& created_utc,
                        const Session& session) {
  Preparation run;
  run.previous = find_previous(given);
  run.created_utc = run.previous ? run.previous->attributes.created_utc : created_utc;
  TrainOptions options = given;
  options.template_date = choose_template_date(
      given.template_date,
      run.previous ? stored_template_date(run.previous->attributes.config) : std::nullopt,
      created_utc);
  if (session.rank() == 0) {
    check_replaceable(options.out);
    check_not_input("--out", options.out,
                    {options.model, options.adapter, options.train, options.test});
  }
  const auto micro_batch =
      run.previous ? std::optional(stored_integer(run.previous->attributes.config, "micro_batch"))
                   : std::nullopt;
  run.job =
      prepare_job(options, arrange_ranks(options, std::nullopt, session), micro_batch, session);
  check_layer(options.layer, run.job.inputs.config);
  choose_cache_budget(run.job, {options.layer}, session);
  run.plan = plan_settings(run.job.settings, run.job.inputs.train);

  run.config = settings_to_json(run.job.settings, run.job.inputs, *run.job.topology);
  if (run.previous) {
    const std::string& stored = run.previous->attributes.config;
    check_same_settings(stored, run.config, options.out.string());
    for (std::string& warning : harmless_differences(stored, run.config)) {
      run.job.warnings.push_back(std::move(warning));
    }
  }
  add_plan_warnings(run);
  const std::int64_t steps_done = run.previous ? run.previous->checkpoint.step : -1;
  const bool complete = run.previous && run.previous->attributes.status == RunStatus::kComplete;
  ContentHash agreement;
  agreement.add(fmt::format("{} {} {}", result_settings(run.config), steps_done, complete));
  run.agreement = agreement.value();
  return run;
}

}  // namespace bipo
