#include "experiments/training/run_preparation.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "collectives/device_graph.hpp"
#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "experiments/files/atomic_file.hpp"
#include "experiments/job/machine.hpp"
#include "experiments/job/new_file.hpp"
#include "experiments/job/vectors_in_use.hpp"
#include "experiments/settings/earlier_defaults.hpp"
#include "experiments/settings/stored_settings.hpp"
#include "experiments/settings/template_dates.hpp"
#include "experiments/settings/warmup.hpp"
#include "experiments/training/micro_batch_room.hpp"
#include "experiments/training/plan_warnings.hpp"
#include "experiments/training/prefix_room.hpp"
#include "experiments/training/prepared_model.hpp"
#include "experiments/training/run_record.hpp"
#include "trainer/cache/activation_cache.hpp"
#include "trainer/intervention/layers.hpp"
#include "trainer/loop/device_step.hpp"
#include "trainer/model/architecture/wrappers.hpp"
#include "trainer/model/decoder/decoder.hpp"
#include "trainer/passes/packing.hpp"

namespace bipo {
namespace {

using Json = nlohmann::ordered_json;

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
  options.reduction = objective_of(options).reduction;
  leave_out_bos(options.steer_bos, job.inputs.bos, options.positions, job.warnings);
  if (!has_two_directions(options.objective)) {
    options.sign = SignRule::kPlus;
  }
  if (projects_out(options.objective)) {
    options.sign = SignRule::kBoth;
  }
}

// What a run from --continue-from begins with.
struct Start {
  std::vector<float> vector;  // for each layer [D]
  Json provenance;            // null: it begins at zero
};

SteeredLayers layers_of(const std::vector<StoredVector>& vectors) {
  std::vector<std::int64_t> layers;
  for (const StoredVector& vector : vectors) {
    layers.push_back(vector.layer);
  }
  return SteeredLayers(std::move(layers)).at(vectors.front().site);
}

// Reads the vector, of one layer or several, and checks that it fits the run; adds what there is to
// say about it to the job.
Start read_start(const TrainOptions& options, JobPreparation& job) {
  const VectorChoice& choice = options.continue_from;
  const SteeredLayers layers = steered_layers(options);
  const char* const option = start_option(options);
  const std::vector<StoredVector> vectors = read_layer_vectors(choice, job.inputs.config, option);
  const StoredVector& stored = vectors.front();
  const std::string file = choice.file.string();
  if (stored.site != layers.site()) {
    throw UserError(fmt::format(
        "{} {}: its vector was made with --site {}, but --site is {}; a vector means something at "
        "its own site only",
        option, file, to_string(stored.site), to_string(layers.site())));
  }
  if (layers_of(vectors) != layers) {
    const bool is_one = vectors.size() == 1;
    throw UserError(fmt::format(
        "{} {}: its vector{} to {}, but --layer is {}; a vector means something at its own layer "
        "only: give --layer {}{}",
        option, file, is_one ? " belongs" : "s belong", layers_text(layers_of(vectors)),
        to_string(layers), to_string(layers_of(vectors)),
        is_one || stored.site != Site::kBlock
            ? ""
            : "; `bipo-dist export --layer` and `bipo-dist import` make a file of one of several "
              "layers"));
  }
  if (const auto warning = unfinished_warning(choice.file, stored)) {
    job.warnings.push_back(*warning);
  }
  if (is_transfer(stored, job.inputs.model_fingerprint, job.inputs.weights_hash)) {
    job.warnings.push_back(
        fmt::format("{}: trained on other weights or another configuration ({}) than those here; "
                    "this run goes on from it all the same",
                    file, stored.model));
  }
  const TrainedPositions trained = trained_positions(stored);
  const std::string limited = limited_positions(trained);
  const bool is_alike = to_string(trained.positions) == to_string(job.options.positions) &&
                        trained.steers_bos == job.options.steer_bos;
  if (!limited.empty() && !is_alike) {
    job.warnings.push_back(
        fmt::format("{}: trained at the positions {}, which {} does not take over; --positions "
                    "and --steer-bos choose those of this run",
                    file, limited, option));
  }
  Start start;
  for (const StoredVector& vector : vectors) {
    job.inputs.notes.push_back(vector_note(choice, vector) +
                               "; the run starts from it, with a new optimiser");
    for (const float value : vector.value) {
      start.vector.push_back(static_cast<float>(choice.weight * value));
    }
  }
  if (!std::isfinite(vector_norm(start.vector))) {
    throw UserError(
        fmt::format("{} {}: its vector times {} is not finite", option, file, choice.weight));
  }
  ContentHash hash;
  hash.add_bytes(start.vector.data(), start.vector.size() * sizeof(float));
  start.provenance = vector_json(choice, stored);  // of several, the lowest's
  if (layers.count() > 1) {
    start.provenance["layers"] = layers.blocks();
  }
  start.provenance["vector_hash"] = fmt::format("{:016x}", hash.value());
  return start;
}

// Returns what the run that goes on began with, which needs no file any more.  Throws UserError
// where the options name something else.
Json continued_start(const TrainOptions& options, const std::string& config) {
  const VectorChoice& given = options.continue_from;
  const Json stored = Json::parse(config, nullptr, /*allow_exceptions=*/false);
  const Json start = stored.is_object() ? stored.value(kContinueFromKey, Json()) : Json();
  if (given.empty()) {
    return start;
  }
  const char* const option = start_option(options);
  const std::string named = choice_text(given, given.file.string());
  if (!start.is_object()) {
    throw UserError(fmt::format(
        "--resume: {} did not start from {} {}, nor from any other run's vector; leave {} out, or "
        "write another --out",
        options.out.string(), option, named, option));
  }
  const bool is_same = start.value("file", Json()) == absolute_text(given.file) &&
                       start.value("selected", Json()) == to_string(given.selection) &&
                       start.value("weight", Json()) == given.weight;
  if (!is_same) {
    throw UserError(fmt::format(
        "--resume: {} started from another vector ({}) than {} {} names; leave {} out, which a run "
        "that goes on does not need, or write another --out",
        options.out.string(), start.dump(), option, named, option));
  }
  return start;
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
  job.computation = choose_computation(options, job.inputs.config, topology, session);
  resolve_options(job, micro_batch);
  if (session.local_rank() == 0 && !options.cache_dir.empty() && !options.dry_run) {
    prepare_cache_directory(options.cache_dir, options.cache_shared);
  }
  return job;
}

std::vector<std::string> unsteered_warnings(const TrainingInputs& inputs,
                                            const SteeredPositions& positions,
                                            const SteeredLayers& layers) {
  const auto all = static_cast<std::int64_t>(inputs.train.size());
  const auto count = [&](const auto& is_steered) {
    return std::count_if(inputs.train.begin(), inputs.train.end(),
                         [&](const TokenPair& pair) { return is_steered(pair, positions); });
  };
  const std::string text = to_string(positions);
  const std::int64_t steered = count(has_steered_row);
  if (steered == 0) {
    throw UserError(
        fmt::format("--positions {}: no pair of --train has a token there (the last token of an "
                    "answer does not count, because nothing follows it): there would be nothing to "
                    "train; choose other positions",
                    text));
  }
  std::vector<std::string> warnings;
  if (steered < all) {
    warnings.push_back(
        fmt::format("--positions {}: {} of {} pairs have no token there, and teach the vector "
                    "nothing",
                    text, all - steered, all));
  }
  const std::int64_t last = inputs.config.blocks - 1;
  const std::int64_t predicting =
      layers.highest() == last ? count(has_steered_prediction) : steered;
  if (predicting >= steered) {
    return warnings;
  }
  const std::string reason = fmt::format(
      "--positions {}: layer {} is the model's last, where a token's activations predict the next "
      "token and nothing else",
      text, last);
  if (predicting > 0) {
    warnings.push_back(
        fmt::format("{}; in {} of {} pairs no scored token follows one there, so that they teach "
                    "the vector of this layer nothing",
                    reason, all - predicting, all));
    return warnings;
  }
  if (layers.count() == 1) {
    throw UserError(
        fmt::format("{}, and no scored token of --train follows one there: there would be nothing "
                    "to train; choose a lower layer, or positions with last:1 or the answers",
                    reason));
  }
  warnings.push_back(fmt::format(
      "{}, and no scored token of --train follows one there: its vector is not trained", reason));
  return warnings;
}

std::uint64_t weight_bytes(const JobPreparation& job, Range blocks, bool embedding) {
  const Computation& computation = job.computation;
  return Decoder::weight_bytes(job.inputs.config, computation.topology.tp(),
                               computation.topology.tp_rank(), computation.product_type,
                               computation.device, blocks, embedding);
}

std::uint64_t activation_bytes(const JobPreparation& job, const std::vector<TokenPair>& pairs) {
  return ActivationCache::bytes_needed(job.inputs.config.hidden, pairs,
                                       cache_type(job.options.cache_dtype));
}

bool keeps_activations(const JobPreparation& job, const std::vector<TokenPair>& pairs,
                       std::size_t layers, std::uint64_t& budget) {
  const std::uint64_t bytes = activation_bytes(job, pairs) * layers;
  const bool fits = bytes <= budget;
  budget -= fits ? bytes : 0;
  return fits;
}

// Weights come first; caches get half of the node's remaining memory unless the user sets a budget.
// If the caches do not fit, every block stays loaded.
void choose_cache_budget(JobPreparation& job, const std::vector<std::int64_t>& layers,
                         const Session& session) {
  const ModelConfig& config = job.inputs.config;
  const Topology& topology = job.computation.topology;
  const auto local_ranks = static_cast<std::uint64_t>(session.local_size());
  const std::uint64_t available = memory_per_rank(job.computation.device, session.local_size());
  const auto weights = [&](Range blocks) { return weight_bytes(job, blocks, /*embedding=*/true); };
  const auto require = [&](std::uint64_t bytes, const char* what) {
    require_memory(what, bytes, available, topology.tp());
  };
  // The prefix pass holds one block at a time beside the suffix.
  const std::int64_t first = SteeredPlace{layers.front(), job.options.site}.blocks_before();
  const std::uint64_t suffix = weights({first, config.blocks});
  std::uint64_t resident = suffix;
  for (std::int64_t i = 0; i < first; ++i) {
    resident = std::max(resident, suffix + weights({i, i + 1}) - weights({}));
  }
  require(resident, "the weights of the blocks after --layer, with the head, take");
  const std::uint64_t host = memory_per_rank(c10::Device(c10::kCPU), 1);
  const std::uint64_t on_host = job.computation.device.is_cpu() ? resident * local_ranks : 0;
  const std::uint64_t free = host - std::min(host, on_host);
  job.options.cache_budget = std::min(job.options.cache_budget.value_or(free / 2), free);

  std::uint64_t budget = *job.options.cache_budget;
  if (!keeps_activations(job, job.inputs.train, layers.size(), budget)) {
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
  const char* const what = options.site == Site::kMlp ? "the MLP in " : "";
  notes.behind["layer"] =
      options.layer.count() == 1
          ? fmt::format("output of {}block {} of 0..{}", what, options.layer.lowest(), c.blocks - 1)
          : fmt::format("outputs of {}{} blocks of 0..{}, trained jointly", what,
                        options.layer.count(), c.blocks - 1);
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
  notes.rows["Training"] = {{"AdamW", "betas 0.9 0.999, eps 1e-8"}};
  notes.rows["Machine"] = {{"ranks", ranks.to_string() + how_ranks_wait(ranks)},
                           {"collectives", computation.backend}};
  if (!computation.kernels.empty()) {
    notes.rows["Machine"].emplace_back("kernels", computation.kernels);
  }
  if (!job.unrecorded.empty()) {
    notes.rows["Machine"].emplace_back("CUDA graphs", fmt::format("none: {}", job.unrecorded));
  } else if (records_graphs()) {
    const std::string obstacle =
        graph_obstacle(c, computation.device, ranks.tp(), /*keeps_activations=*/true);
    notes.rows["Machine"].emplace_back(
        "CUDA graphs", obstacle.empty()
                           ? "of micro-batches whose shapes repeat, if activations are kept"
                           : fmt::format("none: {}", obstacle));
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
    options.warmup_steps = continued_warmup_steps(given, run.previous->attributes.config);
    keep_earlier_defaults(options, run.previous->attributes.config);
  }
  if (session.rank() == 0) {
    check_replaceable(options.out);
    check_not_input(
        "--out", options.out,
        {options.model, options.adapter, options.train, options.test, options.continue_from.file});
  }
  Json provenance =
      run.previous ? continued_start(options, run.previous->attributes.config) : Json();
  const auto micro_batch =
      run.previous ? std::optional(stored_integer(run.previous->attributes.config, "micro_batch"))
                   : std::nullopt;
  run.job =
      prepare_job(options, arrange_ranks(options, std::nullopt, session), micro_batch, session);
  check_layer(options.layer.highest(), run.job.inputs.config);
  for (std::string& warning : unsteered_warnings(run.job.inputs, run.job.options.positions,
                                                 steered_layers(run.job.options))) {
    run.job.warnings.push_back(std::move(warning));
  }
  if (!run.previous && !options.continue_from.empty()) {
    Start start = read_start(options, run.job);
    run.start = std::move(start.vector);
    provenance = std::move(start.provenance);
  }
  run.job.unrecorded = reason_not_to_record(run.job, {run.job.options});
  if (!run.job.unrecorded.empty()) {
    choose_graphs(false);
  }
  if (!options.dry_run) {  // its plan says how much memory the run takes, elsewhere perhaps
    choose_cache_budget(run.job, {options.layer.lowest()}, session);
    choose_prefix_packs(run.job, {{options.layer.lowest()},
                                  options.eval_every > 0,
                                  /*budget=*/0,
                                  uses_reference(options.objective)});
    require_micro_batch_room(run.job, {run.job.options});
  }
  run.plan = plan_settings(run.job.options, run.job.inputs.train);
  run.job.options.warmup_steps = warmup_steps(run.job.options, BatchPlan(run.plan).total_steps());
  run.config = run_config(run.job.options, run.job, provenance);
  const auto add_warnings = [&](std::vector<std::string> warnings) {
    std::move(warnings.begin(), warnings.end(), std::back_inserter(run.job.warnings));
  };
  if (run.previous) {
    const std::string& stored = run.previous->attributes.config;
    check_same_settings(stored, run.config, options.out.string());
    add_warnings(harmless_differences(stored, run.config));
  }
  add_warnings(plan_warnings(BatchPlan(run.plan), *run.job.options.warmup_steps,
                             run.plan.micro_batch, run.job.computation.topology.dp(),
                             {"the run", "--lr", ""}));
  const std::int64_t steps_done = run.previous ? run.previous->checkpoint.step : -1;
  const bool complete = run.previous && run.previous->attributes.status == RunStatus::kComplete;
  ContentHash agreement;
  agreement.add(fmt::format("{} {} {}", result_settings(run.config), steps_done, complete));
  agreement.add(run.job.computation.kernels);
  run.agreement = agreement.value();
  return run;
}

}  // namespace bipo
