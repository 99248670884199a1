#include "experiments/generation_run/generation_job.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "experiments/generation_run/generation_room.hpp"
#include "experiments/generation_run/sampling_defaults.hpp"
#include "experiments/job/new_file.hpp"
#include "experiments/job/text_options.hpp"
#include "experiments/progress/progress.hpp"
#include "experiments/settings/field.hpp"
#include "experiments/settings/template_dates.hpp"

namespace bipo {
namespace {

// Answers that grow together without --batch-size: enough for efficient products, few enough that
// their keys and values leave memory for the weights.
constexpr std::int64_t kAnswersAtOnce = 64;

GenerationSettings generation_settings(const GenerationJob& job) {
  const GenerateOptions& options = job.options;
  GenerationSettings settings;
  for (const double multiplier : options.multipliers) {
    std::vector<double>& row = settings.multipliers.emplace_back();
    for (const VectorInUse& vector : job.vectors) {
      row.push_back(multiplier * vector.coefficient_at_one());
    }
  }
  settings.positions = *options.positions;
  settings.max_new_tokens = std::min(options.max_new_tokens, job.model.files.config.context);
  if (!options.ignore_eos) {
    settings.stop_tokens = stop_tokens(job.text->text());
  }
  settings.sampling = {options.temperature, options.top_k, options.top_p,
                       options.repetition_penalty, options.seed};
  return settings;
}

void check_out(const GenerateOptions& options) {
  if (options.out.empty()) {
    return;
  }
  std::vector<std::filesystem::path> inputs = {options.model, options.adapter, options.prompts,
                                               options.gate.vector.file};
  for (const VectorChoice& vector : options.vectors) {
    inputs.push_back(vector.file);
  }
  check_new_file("--out", options.out, options.overwrite, inputs);
}

void check_room(const GenerationJob& job, const Session& session) {
  const std::uint64_t conceptors =
      conceptor_device_bytes(job.vectors, /*controls=*/0, job.model.computation.device);
  const std::uint64_t beside = memory_beside_weights(job.model, session);
  require_generation_room(job, beside - std::min(beside, conceptors));
}

void read_prompts_of(GenerationJob& job) {
  const GenerateOptions& options = job.options;
  job.prompts = options.prompts.empty() ? std::vector{prompt_from_text(options.prompt, "--prompt")}
                                        : read_prompts(options.prompts);
  const std::int64_t context = job.model.files.config.context;
  for (const Prompt& prompt : job.prompts) {
    std::vector<TokenId> tokens;
    try {
      tokens = tokenize_prompt(prompt.messages, job.text->text(), prompt.template_variables);
    } catch (const UserError& error) {
      throw UserError(fmt::format("{}: {}", prompt.where, error.what()));
    }
    const auto length = static_cast<std::int64_t>(tokens.size());
    if (length >= context) {
      throw UserError(fmt::format(
          "{}: the prompt has {} tokens, but the model's context of {} must hold it and "
          "at least one token of the answer; shorten the prompt",
          prompt.where, length, context));
    }
    job.tokens.push_back({static_cast<std::int64_t>(job.tokens.size()), std::move(tokens)});
  }
}

std::uint64_t agreement(const GenerationJob& job) {
  ContentHash hash;
  hash.add(job.model.computation.kernels);
  hash.add(job.model.files.fingerprint);
  hash.add(job.weights_hash);
  for (const VectorInUse& vector : job.vectors) {
    hash.add(fmt::format("{} {} {}", vector.stored.layer, to_string(vector.stored.site),
                         vector.choice.weight));
    hash.add_bytes(vector.stored.value.data(), vector.stored.value.size() * sizeof(float));
    hash.add_bytes(vector.matrix.data(), vector.matrix.size() * sizeof(float));
  }
  hash.add(to_string(job.options.intervention));
  hash.add(fmt::format("{}", job.settings.positions.left_out_bos));
  if (job.gate) {
    const PlacedVector& vector = job.gate->vector;
    hash.add(fmt::format("gate {} {}", vector.layer, job.gate->threshold));
    hash.add_bytes(vector.value.data(), vector.value.size() * sizeof(float));
  }
  for (const NumberedPrompt& prompt : job.tokens) {
    hash.add(std::uint64_t{prompt.tokens.size()});
    hash.add_bytes(prompt.tokens.data(), prompt.tokens.size() * sizeof(TokenId));
  }
  const GenerationSettings& settings = job.settings;
  hash.add(fmt::format("{} {} {} {} {} {} {} {} {} {} {} {}", job.batch, settings.max_new_tokens,
                       name_of(job.model.computation.dtype),
                       fmt::join(job.options.multipliers, ","), to_string(*job.options.positions),
                       job.options.ignore_eos, job.options.stream, settings.sampling.temperature,
                       settings.sampling.top_k, settings.sampling.top_p,
                       settings.sampling.repetition_penalty, settings.sampling.seed));
  return hash.value();
}

}  // namespace

GenerationJob prepare_generation(const GenerateOptions& given, const std::string& now,
                                 const Session& session) {
  GenerationJob job;
  job.options = given;
  job.options.template_date = choose_template_date(given.template_date, std::nullopt, now);
  if (given.vectors.empty()) {
    job.options.multipliers = {0};  // all texts would be the same
  }
  if (session.rank() == 0) {
    check_out(given);
  }
  job.model = open_whole_model(given.model, given.adapter, given, session);
  const ModelConfig& config = job.model.files.config;
  job.weights_hash = hash_of_weights(*job.model.files.weights);
  job.vectors = read_vectors(given.vectors, config);
  check_intervention(job.vectors, given.intervention);
  job.gate = read_gate(given.gate, config);
  TokenizeOptions tokenize = tokenize_options(job.options, config.context);
  tokenize.max_length = std::numeric_limits<std::int64_t>::max();  // see read_prompts_of()
  job.text.emplace(job.model.files.read_text(), template_settings(job.options), config.vocabulary,
                   tokenize);
  read_prompts_of(job);
  const std::vector<std::string> position_warnings =
      resolve_positions(job.vectors, job.text->text().special.bos, job.options);
  job.notes = vector_notes(job.vectors);
  add_steering_notes(job.options, job.gate, job.notes);
  job.settings = generation_settings(job);
  job.batch = given.batch_size.value_or(std::max<std::int64_t>(
      1, kAnswersAtOnce / static_cast<std::int64_t>(job.options.multipliers.size())));
  job.room = generation_room(config, job.tokens, job.batch, job.settings);
  check_room(job, session);
  job.warnings = job.model.files.warnings();
  for (auto& warnings :
       {job.text->warnings(), sampling_warnings(given), position_warnings,
        vector_warnings(with_gate(job.vectors, given.gate), job.model.files, job.weights_hash)}) {
    job.warnings.insert(job.warnings.end(), warnings.begin(), warnings.end());
  }
  job.agreement = agreement(job);
  return job;
}

}  // namespace bipo
