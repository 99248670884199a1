#include "launcher/commands/extract_preparation.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "experiments/files/atomic_file.hpp"
#include "experiments/job/computation.hpp"
#include "experiments/job/machine.hpp"
#include "experiments/job/new_file.hpp"
#include "experiments/runs/run_file.hpp"
#include "experiments/settings/fields.hpp"
#include "experiments/settings/stored_settings.hpp"
#include "experiments/settings/template_dates.hpp"
#include "experiments/sweeps/sweep_plan.hpp"
#include "experiments/training/extraction_room.hpp"
#include "launcher/commands/conceptor_results.hpp"
#include "trainer/extraction/second_moments.hpp"
#include "trainer/model/architecture/config.hpp"
#include "trainer/records/records.hpp"

namespace bipo {
namespace {

using Json = nlohmann::ordered_json;

// Returns the extraction's settings as those of a training run before its first step.
TrainOptions job_options(const ExtractOptions& options) {
  TrainOptions job;
  static_cast<TextOptions&>(job) = options;
  static_cast<MachineOptions&>(job) = options;
  job.model = options.model;
  job.adapter = options.adapter;
  job.train = options.train;
  job.background = options.background;
  job.trains_on_letters = options.method == ExtractMethod::kCaaLetter;
  job.site = options.site;
  return job;
}

std::vector<std::int64_t> choose_layers(const ExtractOptions& options, const ModelConfig& config) {
  if (options.layer >= 0) {
    check_layer(options.layer, config);
    return {options.layer};
  }
  return expand_layers(options.layers, options.model.string(), config.blocks);
}

std::optional<double> choose_norm(const ExtractOptions& options,
                                  std::vector<std::string>& warnings) {
  if (options.match_norm.empty()) {
    return options.norm > 0 ? std::optional(options.norm) : std::nullopt;
  }
  const VectorChoice& choice = options.match_norm;
  const StoredVector matched = read_stored_vector(choice.file, choice.selection);
  if (auto warning = unfinished_warning(choice.file, matched)) {
    warnings.push_back(std::move(*warning));
  }
  if (matched.site != options.site) {
    warnings.push_back(fmt::format(
        "--match-norm {}: its vector was made with --site {}, and --site is {}: what is between "
        "the two, as a norm, changes what a length does",
        choice.file.string(), to_string(matched.site), to_string(options.site)));
  }
  const double norm = vector_norm(matched.value) * std::abs(choice.weight);
  if (norm == 0) {
    throw UserError(fmt::format("--match-norm {}: its vector is zero; name a run that has moved",
                                choice_text(choice, choice.file.string())));
  }
  return norm;
}

// Reads the vectors of an ensemble, which must belong to `layer`, and warns of those that are of
// another model or of a run that is not complete.
std::vector<VectorInUse> read_ensemble(const ExtractOptions& options, const TrainingInputs& inputs,
                                       std::int64_t layer, std::vector<std::string>& warnings) {
  std::vector<VectorInUse> ensemble;
  for (const VectorChoice& choice : options.vectors) {
    StoredVector stored = read_vector(choice, inputs.config, "--vector");
    const std::string file = choice.file.string();
    if (stored.layer != layer) {
      throw UserError(fmt::format(
          "--vector {}: it belongs to layer {}, but --layer is {}; the mean of an ensemble is of "
          "vectors of one layer",
          file, stored.layer, layer));
    }
    if (stored.site != options.site) {
      throw UserError(
          fmt::format("--vector {}: it was made with --site {}, but --site is {}; the mean of an "
                      "ensemble is of vectors of one site",
                      file, to_string(stored.site), to_string(options.site)));
    }
    if (options.normalise && vector_norm(stored.value) == 0) {
      throw UserError(fmt::format(
          "--vector {}: its vector is zero, which --normalise cannot bring to length 1; leave the "
          "file out",
          choice_text(choice, file)));
    }
    if (auto warning = unfinished_warning(choice.file, stored)) {
      warnings.push_back(std::move(*warning));
    }
    if (is_transfer(stored, inputs.model_fingerprint, inputs.weights_hash)) {
      warnings.push_back(fmt::format(
          "--vector {}: trained on other weights or another configuration ({}) than those here",
          file, stored.model));
    }
    ensemble.push_back({choice, std::move(stored)});
  }
  if (const VectorInUse* const other = first_trained_elsewhere(ensemble)) {
    const auto shown = [](const VectorInUse& member) {
      const std::string text = limited_positions(trained_positions(member.stored));
      return text.empty() ? "all" : text;
    };
    warnings.push_back(
        fmt::format("the vectors were trained at different positions ({} at {}, {} at {}), so "
                    "that the file of their mean names none; give --positions where it is used",
                    ensemble.front().choice.file.string(), shown(ensemble.front()),
                    other->choice.file.string(), shown(*other)));
  }
  return ensemble;
}

// Says where the vectors of an ensemble were trained, as the file of a training does, if that is
// the same for all.
void store_positions(const std::vector<VectorInUse>& ensemble, Json& json) {
  if (first_trained_elsewhere(ensemble) != nullptr) {
    return;
  }
  const TrainedPositions trained = trained_positions(ensemble.front().stored);
  if (trained.positions != SteeredPositions::kAll) {
    json[kStoredPositionsKey] = to_string(trained.positions);
  }
  if (!trained.steers_bos) {
    json[kStoredSteerBosKey] = false;
  }
}

// Returns the mean of the vectors, each brought to length 1 where that is asked for, then times its
// weight; as Siddique et al. 2025 (arXiv 2503.05371) average the vectors of several behaviours.
std::vector<double> mean_of(const std::vector<VectorInUse>& ensemble, bool normalise) {
  std::vector<double> mean(ensemble.empty() ? 0 : ensemble.front().stored.value.size(), 0);
  for (const VectorInUse& member : ensemble) {
    const std::vector<float>& value = member.stored.value;
    const double length = normalise ? vector_norm(value) : 1;
    const double factor = member.choice.weight / length / static_cast<double>(ensemble.size());
    for (std::size_t i = 0; i < mean.size(); ++i) {
      mean[i] += factor * static_cast<double>(value[i]);
    }
  }
  return mean;
}

// Returns the tokens that the activations are taken at, as files name them.
const char* positions_read(ExtractMethod method) {
  return method == ExtractMethod::kCaaLetter  ? "letter"
         : method == ExtractMethod::kFreeform ? "last token"
                                              : "answer";
}

// The bytes that a rank keeps in host memory of each layer that it has begun.
std::uint64_t statistics_bytes(const ExtractOptions& options, const JobPreparation& job) {
  switch (options.method) {
    case ExtractMethod::kCaa:
    case ExtractMethod::kCaaLetter:
    case ExtractMethod::kMeanCentring:
    case ExtractMethod::kEnsemble:
    case ExtractMethod::kFreeform:
      return 0;  // a few vectors
    case ExtractMethod::kProbe:
    case ExtractMethod::kConfst:
      return probe_bytes(job.inputs.config.hidden,
                         static_cast<std::int64_t>(job.inputs.train.size()),
                         job.computation.topology.dp());
    case ExtractMethod::kPca:
    case ExtractMethod::kConceptor:
      return second_moments_bytes(job.inputs.config.hidden);
    case ExtractMethod::kConceptorAnd:
    case ExtractMethod::kConceptorOr:
    case ExtractMethod::kConceptorNot:
      break;  // no pass
  }
  throw BugError("a method of extract without a size");
}

// Returns whether the pass needs less memory block by block, and checks that it fits.  Decides from
// sizes alone: all ranks must choose the same.
bool goes_block_by_block(const ExtractPreparation& run, const Session& session) {
  const JobPreparation& job = run.job;
  const std::int64_t blocks = run.pass.layers.back() + 1;
  const ModelConfig& config = job.inputs.config;
  const Topology& topology = job.computation.topology;
  const auto weights = [&](Range range) {
    return Decoder::weight_bytes(config, topology.tp(), 0, job.computation.product_type,
                                 job.computation.device, range,
                                 /*embedding=*/true);
  };
  std::uint64_t largest = 0;
  for (std::int64_t i = 0; i < blocks; ++i) {
    largest = std::max(largest, weights({i, i + 1}));
  }
  std::uint64_t streamed = largest + streamed_bytes(config.hidden, run.pairs, topology.dp());
  std::uint64_t loaded = weights({0, blocks});
  const std::uint64_t results =
      makes_conceptor(run.options.method)
          ? conceptor_bytes(config.hidden, static_cast<std::int64_t>(run.pass.layers.size()))
          : 0;
  const std::uint64_t of_layer = statistics_bytes(run.options, job);
  const std::uint64_t kept = of_layer + results;
  const std::uint64_t all_kept = of_layer * run.pass.layers.size() + results;
  if (job.computation.device.is_cpu()) {
    streamed += kept;
    loaded += all_kept;
  }
  require_memory("the pass takes", std::min(streamed, loaded),
                 memory_per_rank(job.computation.device, session.local_size()), topology.tp());
  const bool goes = streamed < loaded;
  if (!job.computation.device.is_cpu() && kept > 0) {
    require_memory("what the method keeps takes", goes ? kept : all_kept,
                   memory_per_rank(at::kCPU, session.local_size()), topology.tp());
  }
  return goes;
}

void prepare_directory(const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::create_directory(directory, error);
  if (!std::filesystem::is_directory(directory)) {
    throw UserError(fmt::format("--out {}: not a directory, and cannot be made: {}",
                                directory.string(), error.message()));
  }
}

ExtractOptions resolved_options(const ExtractPreparation& preparation) {
  ExtractOptions options = preparation.options;
  static_cast<TextOptions&>(options) = preparation.job.options;
  static_cast<MachineOptions&>(options) = preparation.job.options;
  return options;
}

}  // namespace

void prepare_places(const ExtractOptions& options, const std::vector<std::int64_t>& layers) {
  if (options.layer < 0) {
    prepare_directory(options.out);
  }
  std::vector<std::filesystem::path> inputs = {options.model, options.adapter, options.train,
                                               options.background, options.match_norm.file};
  for (const VectorChoice& choice : options.vectors) {
    inputs.push_back(choice.file);
  }
  for (const std::int64_t layer : layers) {
    check_new_file("--out", direction_file(options, layer), options.overwrite, inputs);
  }
}

std::filesystem::path direction_file(const ExtractOptions& options, std::int64_t layer) {
  return options.layer >= 0 ? options.out : options.out / fmt::format("layer{}.h5", layer);
}

ExtractPreparation prepare_extraction(const ExtractOptions& given, const std::string& created_utc,
                                      const Session& session) {
  ExtractPreparation run;
  run.options = given;
  run.options.template_date = choose_template_date(given.template_date, std::nullopt, created_utc);
  run.created_utc = created_utc;
  std::vector<std::string> warnings;
  run.norm = choose_norm(run.options, warnings);
  run.job = prepare_job(job_options(run.options), arrange_ranks(given, std::nullopt, session),
                        std::nullopt, session);
  run.job.warnings.insert(run.job.warnings.end(), warnings.begin(), warnings.end());
  const TrainingInputs& inputs = run.job.inputs;
  run.pass.layers = choose_layers(run.options, inputs.config);
  run.pass.site = run.options.site;
  run.ensemble = read_ensemble(run.options, inputs, run.pass.layers.front(), run.job.warnings);
  run.ensemble_mean = mean_of(run.ensemble, run.options.normalise);
  const bool has_letters = given.method == ExtractMethod::kCaaLetter;
  run.pass.answers_end_with_eos = !given.no_eos && !has_letters;
  run.pairs = inputs.train;
  run.pairs.insert(run.pairs.end(), inputs.background.begin(), inputs.background.end());
  require_answer_positions(run.pairs, run.pass.answers_end_with_eos);
  if (given.method == ExtractMethod::kFreeform) {
    run.pairs = last_tokens_alone(std::move(run.pairs), run.pass.answers_end_with_eos);
  }
  run.pass.block_by_block = goes_block_by_block(run, session);
  choose_extraction_packs(run.job, run.pairs, run.pass);
  if (static_cast<std::int64_t>(run.pairs.size()) < run.job.computation.topology.dp()) {
    run.job.warnings.push_back(fmt::format(
        "{} pairs for {} replicas: {} of them idle; start fewer ranks", run.pairs.size(),
        run.job.computation.topology.dp(),
        static_cast<std::size_t>(run.job.computation.topology.dp()) - run.pairs.size()));
  }
  if (session.rank() == 0) {
    if (makes_conceptor(given.method)) {
      const auto hidden = static_cast<std::uint64_t>(inputs.config.hidden);
      check_free_space(run.options.out, run.pass.layers.size() * hidden * hidden * sizeof(double));
    }
    prepare_places(run.options, run.pass.layers);
  }
  ContentHash agreement;
  agreement.add(fmt::format("{} {} {}",
                            result_settings(extract_config(run, run.pass.layers.front(), {})),
                            fmt::join(run.pass.layers, ","), run.pass.block_by_block));
  agreement.add(fmt::format("{}", fmt::join(run.ensemble_mean, ",")));
  agreement.add(run.job.computation.kernels);
  run.agreement = agreement.value();
  return run;
}

const char* figure_key(ExtractMethod method) {
  return method == ExtractMethod::kFreeform    ? "js_divergence"
         : method == ExtractMethod::kConfst    ? "confident_answers"
         : method == ExtractMethod::kConceptor ? "quota"
                                               : nullptr;
}

std::string extract_config(const ExtractPreparation& preparation, std::int64_t layer,
                           const DirectionNorms& norms) {
  const TrainingInputs& inputs = preparation.job.inputs;
  ExtractOptions described = resolved_options(preparation);
  described.layer = layer;
  described.out = direction_file(preparation.options, layer);
  Json json = stored_settings(extract_fields(described));
  json["positions"] = positions_read(described.method);
  json["model_fingerprint"] = fmt::format("{:016x}", inputs.model_fingerprint);
  json[kWeightsHashKey] = fmt::format("{:016x}", inputs.weights_hash);
  json["train_pairs"] = inputs.train.size();
  json["train_tokens_hash"] = fmt::format("{:016x}", inputs.train_hash);
  if (!preparation.ensemble.empty()) {
    json["ensemble"] = vectors_json(preparation.ensemble);
    store_positions(preparation.ensemble, json);
  }
  if (!inputs.background.empty()) {
    json["background_pairs"] = inputs.background.size();
    json["background_tokens_hash"] = fmt::format("{:016x}", inputs.background_hash);
  }
  if (!makes_conceptor(described.method)) {
    json["norm"] = preparation.norm ? Json(*preparation.norm) : Json("as found");
    json["norm_found"] = norms.found;
    json["norm_written"] = norms.written;
  }
  json["residual_norm"] = norms.residual;
  if (norms.figure) {
    json[figure_key(described.method)] = *norms.figure;
  }
  json["world_size"] = preparation.job.computation.topology.world();
  if (const auto factor = mlp_output_factor(inputs.config);
      factor && described.site == Site::kMlp) {
    json[kBlockOutputFactorKey] = *factor;
  }
  store_template_date(described.template_date, json);
  return settings_text(json);
}

std::vector<SettingGroup> extract_settings_table(const ExtractPreparation& preparation) {
  const JobPreparation& job = preparation.job;
  ExtractOptions described = resolved_options(preparation);
  SettingNotes notes = job_notes(job.options, job, job.computation.topology);
  notes.behind["layer"] = fmt::format(
      "outputs of {}block{} {} of 0..{}", described.site == Site::kMlp ? "the MLPs of " : "",
      preparation.pass.layers.size() == 1 ? "" : "s", fmt::join(preparation.pass.layers, ", "),
      job.inputs.config.blocks - 1);
  if (!job.inputs.background.empty()) {
    notes.behind["background"] = fmt::format("{} pairs", job.inputs.background.size());
  }
  notes.behind["dtype"] = "products; residual stream fp32, sums float64";
  if (preparation.norm && !described.match_norm.empty()) {
    notes.behind["norm"] = fmt::format("{:.6g}", *preparation.norm);
  }
  for (const std::string& note : vector_notes(preparation.ensemble)) {
    notes.rows["Direction"].emplace_back("vector", note);
  }
  const char* const one_by_one = job.computation.device.is_cpu()
                                     ? "all blocks, one pair after the other"
                                     : "all blocks, some pairs after the others";
  notes.rows["Machine"].emplace_back("pass", preparation.pass.block_by_block
                                                 ? "all pairs, one block after the other"
                                                 : one_by_one);
  return settings_table(extract_fields(described), notes);
}

}  // namespace bipo
