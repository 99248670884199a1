#include "experiments/training/run_preparation.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "experiments/files/atomic_file.hpp"
#include "experiments/job/machine.hpp"
#include "experiments/job/new_file.hpp"
#include "experiments/settings/stored_settings.hpp"
#include "experiments/settings/template_dates.hpp"
#include "experiments/training/plan_warnings.hpp"
#include "experiments/training/prepared_model.hpp"
#include "experiments/training/run_record.hpp"
#include "trainer/cache/activation_cache.hpp"
#include "trainer/model/architecture/wrappers.hpp"
#include "trainer/model/decoder/decoder.hpp"

namespace bipo {
namespace {

// Says what decides how long a thread without work spins: launcher/start.cpp sets it by default.
std::string how_threads_wait() {
  if (const char* policy = std::getenv("OMP_WAIT_POLICY")) {
    return fmt::format("; waiting ones: OMP_WAIT_POLICY={}", policy);
  }
  const char* spins = std::getenv("GOMP_SPINCOUNT");
  return spins == nullptr ? "" : fmt::format("; waiting ones sleep after {} spins", spins);
}

std::string how_ranks_wait(const Topology& ranks) {
  const char* yields = std::getenv("OMPI_MCA_mpi_yield_when_idle");
  return ranks.world() > 1 && yields != nullptr && yields == std::string_view("1")
             ? "; waiting ones yield their core"
             : "";
}

// Returns the run that --resume continues; none for a new run.  Checks an existing --out.
std::optional<RunRecord> find_previous(const TrainOptions& options) {
  std::error_code unreachable;  // check_replaceable() says what is wrong with such a path
  if (!std::filesystem::exists(options.out, unreachable)) {
    return std::nullopt;
  }
  if (options.resume) {
    RunRecord previous = read_run_to_continue(options.out);
    if (previous.attributes.status == RunStatus::kDiverged) {
      throw UserError(fmt::format(
          "--out {}: the run diverged, which going on from step {} cannot mend; train again with a "
          "lower --lr, and replace the file with --overwrite or name another one",
          options.out.string(), previous.checkpoint.step));
    }
    return previous;
  }
  if (!options.overwrite) {
    throw UserError(
        fmt::format("--out {}: exists already; continue it with --resume, replace it with "
                    "--overwrite, or name another file",
                    options.out.string()));
  }
  return std::nullopt;
}

// Resolves `auto` in place, so that the options describe the computation.
void resolve_options(JobPreparation& job, std::optional<std::int64_t> micro_batch) {
  TrainOptions& options = job.options;
  resolve(job.computation, options);
  options.chat_template = job.inputs.chat_template;
  options.template_date = job.inputs.template_date;
  options.max_length = job.inputs.max_length;
  if (options.cache_dtype == Dtype::kAuto) {
    options.cache_dtype = Dtype::kFp32;
  }
  const auto pairs = static_cast<std::int64_t>(job.inputs.train.size());
  const std::int64_t dealt = std::max<std::int64_t>(
      1, std::min(options.batch_size, pairs) / job.computation.topology.dp());
  options.micro_batch = options.micro_batch.value_or(micro_batch.value_or(dealt));
}

}  // namespace

JobPreparation prepare_job(const TrainOptions& options, const Topology& topology,
                           std::optional<std::int64_t> micro_batch, const Session& session) {
  JobPreparation job;
  job.options = options;
  const ThreadChoice threads =
      choose_threads(options.threads, session.local_size(), session.node_cores());
  job.inputs = read_training_inputs(options, threads.threads);
  job.warnings = job.inputs.warnings;
  plan_shard(job.inputs.config, options.tp, topology.tp_rank());
  job.computation = choose_computation(options, topology, session);
  resolve_options(job, micro_batch);
  if (session.local_rank() == 0 && !options.cache_dir.empty()) {
    prepare_cache_directory(options.cache_dir, options.cache_shared);
  }
  return job;
}

// Weights come first; caches get half of the node's remaining memory unless the user sets a budget.
// If the caches do not fit, every block stays loaded.
void choose_cache_budget(JobPreparation& job, const std::vector<std::int64_t>& layers,
                         const Session& session) {
  const ModelConfig& config = job.inputs.config;
  const Topology& topology = job.computation.topology;
  const auto local_ranks = static_cast<std::uint64_t>(session.local_size());
  const std::uint64_t available = memory_per_rank(job.computation.device, session.local_size());
  const auto weights = [&](Range blocks) {
    return Decoder::weight_bytes(config, topology.tp(), topology.tp_rank(),
                                 job.computation.product_type, job.computation.device, blocks,
                                 /*embedding=*/true);
  };
  const auto require = [&](std::uint64_t bytes, const char* what) {
    require_memory(what, bytes, available, topology.tp());
  };
  // The prefix pass holds one block at a time beside the suffix.
  const std::uint64_t suffix = weights({layers.front() + 1, config.blocks});
  std::uint64_t resident = suffix;
  for (std::int64_t i = 0; i <= layers.front(); ++i) {
    resident = std::max(resident, suffix + weights({i, i + 1}) - weights({}));
  }
  require(resident, "the weights of the blocks after --layer, with the head, take");
  const std::uint64_t host = memory_per_rank(c10::Device(c10::kCPU), 1);
  const std::uint64_t on_host = job.computation.device.is_cpu() ? resident * local_ranks : 0;
  const std::uint64_t free = host - std::min(host, on_host);
  job.options.cache_budget = std::min(job.options.cache_budget.value_or(free / 2), free);

  const std::uint64_t needed = ActivationCache::bytes_needed(config.hidden, job.inputs.train,
                                                             cache_type(job.options.cache_dtype)) *
                               static_cast<std::uint64_t>(layers.size());
  if (needed > *job.options.cache_budget) {
    require(weights({0, config.blocks}),
            "the activations do not fit into the cache, and the model's weights take");
  }
}

// Describes the heads, which may differ by block.
std::string heads_of(const ModelConfig& config) {
  std::map<std::pair<std::int64_t, std::int64_t>, std::int64_t> blocks;  // by Hkv and K
  for (std::int64_t i = 0; i < config.blocks; ++i) {
    const AttentionKind& kind = attention_of(config, i);
    ++blocks[{kv_heads_of(config, kind), head_size_of(config, kind)}];
  }
  if (blocks.size() == 1) {
    const auto& [kv_heads, head_size] = blocks.begin()->first;
    return fmt::format("{} query and {} key/value heads of {}", config.heads, kv_heads, head_size);
  }
  std::vector<std::string> kinds;
  for (const auto& [heads, count] : blocks) {
    kinds.push_back(
        fmt::format("{} key/value heads of {} in {} blocks", heads.first, heads.second, count));
  }
  return fmt::format("{} query heads, {}", config.heads, fmt::join(kinds, ", "));
}

SettingNotes job_notes(const TrainOptions& options, const JobPreparation& job,
                       const Topology& ranks) {
  const ModelConfig& c = job.inputs.config;
  const Computation& computation = job.computation;
  SettingNotes notes;
  notes.behind["train"] = fmt::format("{} pairs", job.inputs.train.size());
  if (!options.test.empty()) {
    notes.behind["test"] = fmt::format("{} pairs", job.inputs.test.size());
  }
  notes.behind["layer"] = fmt::format("output of block {} of 0..{}", options.layer, c.blocks - 1);
  notes.behind["dtype"] = fmt::format(
      "products{}; residual stream and vector fp32",
      computation.emulated ? " computed in fp32: this processor has no bf16 instructions" : "");
  notes.behind["threads"] = computation.threads.reason + how_threads_wait();
  if (!job.inputs.implied_system_text.empty()) {
    notes.behind["system-prompt"] =
        fmt::format("the template puts \"{}\"", job.inputs.implied_system_text);
  }
  notes.rows["Input and output"] = {
      {"architecture", fmt::format("{}, {} blocks, hidden {}, {}, vocabulary {}",
                                   c.wrapper == nullptr ? c.architecture
                                                        : fmt::format("{} in {}", c.architecture,
                                                                      c.wrapper->architecture),
                                   c.blocks, c.hidden, heads_of(c), c.vocabulary)}};
  notes.rows["Training"] = {{"AdamW", "betas 0.9 0.999, eps 1e-8, cosine to 0"}};
  notes.rows["Machine"] = {{"ranks", ranks.to_string() + how_ranks_wait(ranks)},
                           {"collectives", computation.backend}};
  if (!computation.kernels.empty()) {
    notes.rows["Machine"].emplace_back("kernels", computation.kernels);
  }
  return notes;
}

RunPreparation prepare_run(const TrainOptions& given, const std::string& now,
                           const Session& session) {
  RunPreparation run;
  run.found = version_of(given.out);
  run.previous = find_previous(given);
  run.created_utc = run.previous ? run.previous->attributes.created_utc : now;
  TrainOptions options = given;
  options.template_date = choose_template_date(
      given.template_date,
      run.previous ? stored_template_date(run.previous->attributes.config) : std::nullopt, now);
  if (run.previous) {
    options.bos = continued_bos_rule(given.bos, run.previous->attributes.config);
  }
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
  run.plan = plan_settings(run.job.options, run.job.inputs.train);
  run.config = run_config(run.job.options, run.job);
  const auto add_warnings = [&](std::vector<std::string> warnings) {
    std::move(warnings.begin(), warnings.end(), std::back_inserter(run.job.warnings));
  };
  if (run.previous) {
    const std::string& stored = run.previous->attributes.config;
    check_same_settings(stored, run.config, options.out.string());
    add_warnings(harmless_differences(stored, run.config));
  }
  add_warnings(plan_warnings(BatchPlan(run.plan), options.warmup_steps, run.plan.micro_batch,
                             run.job.computation.topology.dp(), {"the run", "--lr", ""}));
  const std::int64_t steps_done = run.previous ? run.previous->checkpoint.step : -1;
  const bool complete = run.previous && run.previous->attributes.status == RunStatus::kComplete;
  ContentHash agreement;
  agreement.add(fmt::format("{} {} {}", result_settings(run.config), steps_done, complete));
  agreement.add(run.job.computation.kernels);
  run.agreement = agreement.value();
  return run;
}

}  // namespace bipo
