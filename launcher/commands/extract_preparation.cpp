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
#include "experiments/job/computation.hpp"
#include "experiments/job/machine.hpp"
#include "experiments/job/new_file.hpp"
#include "experiments/runs/run_file.hpp"
#include "experiments/settings/fields.hpp"
#include "experiments/settings/stored_settings.hpp"
#include "experiments/settings/template_dates.hpp"
#include "experiments/sweeps/sweep_plan.hpp"
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
  const double norm = vector_norm(matched.value) * std::abs(choice.weight);
  if (norm == 0) {
    throw UserError(fmt::format("--match-norm {}: its vector is zero; name a run that has moved",
                                choice_text(choice, choice.file.string())));
  }
  return norm;
}

// Returns whether the pass needs less memory block by block, and checks that it fits.  Decides from
// sizes alone: all ranks must choose the same.
bool goes_block_by_block(const JobPreparation& job, std::int64_t blocks, const Session& session) {
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
  const std::uint64_t streamed =
      largest + streamed_bytes(config.hidden, job.inputs.train, topology.dp());
  const std::uint64_t loaded = weights({0, blocks});
  require_memory("the pass takes", std::min(streamed, loaded),
                 memory_per_rank(job.computation.device, session.local_size()), topology.tp());
  return streamed < loaded;
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
  for (const std::int64_t layer : layers) {
    check_new_file("--out", direction_file(options, layer), options.overwrite,
                   {options.model, options.adapter, options.train, options.match_norm.file});
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
  run.pass.answers_end_with_eos = !given.no_eos;
  require_answer_positions(inputs.train, run.pass.answers_end_with_eos);
  run.pass.block_by_block = goes_block_by_block(run.job, run.pass.layers.back() + 1, session);
  if (static_cast<std::int64_t>(inputs.train.size()) < run.job.computation.topology.dp()) {
    run.job.warnings.push_back(fmt::format(
        "{} pairs for {} replicas: {} of them idle; start fewer ranks", inputs.train.size(),
        run.job.computation.topology.dp(),
        static_cast<std::size_t>(run.job.computation.topology.dp()) - inputs.train.size()));
  }
  if (session.rank() == 0) {
    prepare_places(run.options, run.pass.layers);
  }
  ContentHash agreement;
  agreement.add(fmt::format("{} {} {}",
                            result_settings(extract_config(run, run.pass.layers.front(), {})),
                            fmt::join(run.pass.layers, ","), run.pass.block_by_block));
  agreement.add(run.job.computation.kernels);
  run.agreement = agreement.value();
  return run;
}

std::string extract_config(const ExtractPreparation& preparation, std::int64_t layer,
                           const DirectionNorms& norms) {
  const TrainingInputs& inputs = preparation.job.inputs;
  ExtractOptions described = resolved_options(preparation);
  described.layer = layer;
  described.out = direction_file(preparation.options, layer);
  Json json = stored_settings(extract_fields(described));
  json["positions"] = "answer";
  json["model_fingerprint"] = fmt::format("{:016x}", inputs.model_fingerprint);
  json[kWeightsHashKey] = fmt::format("{:016x}", inputs.weights_hash);
  json["train_pairs"] = inputs.train.size();
  json["train_tokens_hash"] = fmt::format("{:016x}", inputs.train_hash);
  json["norm"] = preparation.norm ? Json(*preparation.norm) : Json("as found");
  json["norm_found"] = norms.found;
  json["norm_written"] = norms.written;
  json["residual_norm"] = norms.residual;
  json["world_size"] = preparation.job.computation.topology.world();
  store_template_date(described.template_date, json);
  return settings_text(json);
}

std::vector<SettingGroup> extract_settings_table(const ExtractPreparation& preparation) {
  const JobPreparation& job = preparation.job;
  ExtractOptions described = resolved_options(preparation);
  SettingNotes notes = job_notes(job.options, job, job.computation.topology);
  notes.behind["layer"] =
      fmt::format("outputs of blocks {} of 0..{}", fmt::join(preparation.pass.layers, ", "),
                  job.inputs.config.blocks - 1);
  notes.behind["dtype"] = "products; residual stream fp32, sums float64";
  notes.behind["norm"] = preparation.norm ? fmt::format("scaled to {:.6g}", *preparation.norm)
                                          : std::string("as found");
  notes.rows["Machine"].emplace_back("pass", preparation.pass.block_by_block
                                                 ? "all pairs, one block after the other"
                                                 : "all blocks, one pair after the other");
  return settings_table(extract_fields(described), notes);
}

}  // namespace bipo
