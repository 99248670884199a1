#include "experiments/evaluation_run/evaluation_job.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "datasets/rows/prompt_list.hpp"
#include "datasets/text/row_collector.hpp"
#include "datasets/tokens/pair_tokenizer.hpp"
#include "datasets/tokens/reference_text.hpp"
#include "experiments/evaluation/multiplier_choice.hpp"
#include "experiments/evaluation_run/evaluation_room.hpp"
#include "experiments/evaluation_run/judge_files.hpp"
#include "experiments/job/text_options.hpp"
#include "experiments/settings/fields.hpp"
#include "experiments/settings/stored_settings.hpp"
#include "experiments/settings/template_dates.hpp"
#include "trainer/model/weights/weights.hpp"
#include "trainer/records/records.hpp"

namespace bipo {
namespace {

using Json = nlohmann::ordered_json;

// Tokens in a piece of the reference text: enough context for a perplexity, few enough to keep a
// batch of pieces small.
constexpr std::int64_t kReferenceWindow = 1024;

void add_skipped(EvaluationJob& job, const std::vector<std::string>& skipped) {
  if (!skipped.empty()) {
    job.warnings.push_back(
        fmt::format("left out: {}{}", skipped.front(),
                    skipped.size() == 1 ? "" : fmt::format("; and {} more", skipped.size() - 1)));
  }
}

// Warns of questions that --positions answer does not steer: the last prompt token predicts an
// answer's first token.
void warn_of_unsteered(EvaluationJob& job, const ChoiceQuestions& questions) {
  const auto count = std::count_if(
      questions.items.begin(), questions.items.end(), [](const TokenizedChoice& item) {
        return std::all_of(item.tokens.answers.begin(), item.tokens.answers.end(),
                           [](const std::vector<TokenId>& answer) { return answer.size() == 1; });
      });
  if (job.options.positions->kind == SteeredPositions::Kind::kAnswer && count > 0) {
    job.warnings.push_back(
        fmt::format("--choices-{}: all answers of {} of {} questions are one token, which "
                    "--positions answer does not steer",
                    choice_kind_name(questions.set.kind), count, questions.items.size()));
  }
}

void read_choices(EvaluationJob& job, const TextTools& text) {
  const EvaluateOptions& options = job.options;
  using Reader = ChoiceSet (*)(const std::filesystem::path&, BadRows);
  const auto read = [&](const std::filesystem::path& path, Reader reader) {
    if (path.empty()) {
      return;
    }
    ChoiceQuestions questions{reader(path, text.options.bad_rows), {}};
    TokenizedChoices tokens = tokenize_choices(questions.set, text);
    add_skipped(job, questions.set.skipped);
    add_skipped(job, tokens.skipped);
    if (tokens.fewer_shots > 0) {
      job.warnings.push_back(
          fmt::format("--mmlu: {} questions have fewer than five examples: no "
                      "more fit into --max-length",
                      tokens.fewer_shots));
    }
    questions.items = std::move(tokens.items);
    warn_of_unsteered(job, questions);
    job.choices.push_back(std::move(questions));
  };
  read(options.choices_ab, read_ab_items);
  read(options.choices_mc, read_mc_items);
  read(options.mmlu, read_mmlu_items);
}

void read_reference_text_of(EvaluationJob& job, const TextTools& text) {
  TokenizeOptions windowed = text.options;
  windowed.max_length = job.reference_window;
  ReferencePieces pieces = tokenize_reference_text(
      read_reference_text(job.options.reference_text),
      {text.chat_template, text.tokenizer, text.special, windowed, text.vocabulary});
  add_skipped(job, pieces.skipped);
  job.reference_text = std::move(pieces.pieces);
}

void read_neutral_prompts(EvaluationJob& job, const TextTools& text) {
  PromptFile file = read_prompts(job.options.neutral_prompts, text.options.bad_rows);
  RowCollector prompts(text.options.bad_rows, job.neutral_prompts, file.skipped);
  for (const Prompt& prompt : file.prompts) {
    prompts.add([&] {
      try {
        return PromptTokens{tokenize_prompt(prompt.messages, text, prompt.template_variables),
                            prompt.where};
      } catch (const UserError& error) {
        throw UserError(fmt::format("{}: {}", prompt.where, error.what()));
      }
    });
  }
  if (job.neutral_prompts.empty()) {
    throw UserError(fmt::format("--neutral-prompts: every prompt was left out; the first: {}",
                                file.skipped.front()));
  }
  add_skipped(job, file.skipped);
}

// Refuses measures that the positions, which may come from the vectors' files, leave unsteered.
void check_positions(const EvaluateOptions& options) {
  if (!options.reference_text.empty() &&
      (!options.positions->steers_answers() || !options.gate.vector.empty())) {
    throw UserError(fmt::format(
        "--reference-text is text without a prompt, which {} is about; leave one of them out",
        options.gate.vector.empty() ? fmt::format("--positions {}", to_string(*options.positions))
                                    : "--gate"));
  }
  if (options.positions->steers_prompts()) {
    return;
  }
  const std::pair<const char*, const std::filesystem::path&> measures[] = {
      {"neutral-prompts", options.neutral_prompts}, {"mmlu", options.mmlu}};
  for (const auto& [name, path] : measures) {
    if (!path.empty()) {
      throw UserError(fmt::format(
          "--{} measures what prompts predict, and the vectors act at the answers only, as they "
          "were trained; leave it out, or give --positions",
          name));
    }
  }
}

void read_data(EvaluationJob& job) {
  const EvaluateOptions& options = job.options;
  const ModelConfig& config = job.model.files.config;
  const TokenizeOptions tokenize = tokenize_options(options, config.context);
  const PairTokenizer tokenizer(job.model.files.read_text(), template_settings(options),
                                config.vocabulary, tokenize);
  job.chat_template = tokenizer.template_name();
  job.max_length = tokenize.max_length;
  job.reference_window = std::min(tokenize.max_length, kReferenceWindow);
  const auto warn = [&](const std::vector<std::string>& warnings) {
    job.warnings.insert(job.warnings.end(), warnings.begin(), warnings.end());
  };
  warn(tokenizer.warnings());
  const TextTools text = tokenizer.text();
  warn(resolve_positions(job.vectors, text.special.bos, job.options));
  check_positions(job.options);
  add_steering_notes(job.options, job.gate, job.notes);
  if (!options.test.empty()) {
    TokenizedFile file = tokenizer.read(options.test, row_options(options, options.max_test_pairs));
    job.notes.push_back(file.understood);
    warn(file.warnings);
    job.pairs = std::move(file.pairs);
    if (options.choose_on) {
      job.choosing_pairs = draw_choosing_pairs(job.pairs.size(), *options.choose_on, options.seed);
    }
  }
  read_choices(job, text);
  if (!options.reference_text.empty()) {
    read_reference_text_of(job, text);
  }
  if (!options.neutral_prompts.empty()) {
    read_neutral_prompts(job, text);
  }
  if (!options.generations.empty()) {
    job.generations = read_generations(options.generations);
    job.generation_tokens = tokenize_generations(job.generations, text);
    add_skipped(job, job.generation_tokens.skipped);
  }
  if (!options.judge_import.empty()) {
    JudgeScores scores = read_judge_scores(options, job.generations);
    warn(judge_warnings(scores, options.judge_scale));
    job.judge_scores = std::move(scores.scores);
  }
  job.judge_requests = judge_requests(options, job.generations);
}

void add_tokens(ContentHash& hash, const std::vector<TokenId>& tokens) {
  hash.add(std::uint64_t{tokens.size()});
  hash.add_bytes(tokens.data(), tokens.size() * sizeof(TokenId));
}

void add_continuations(ContentHash& hash, const Continuations& item) {
  add_tokens(hash, item.prompt);
  for (const std::vector<TokenId>& answer : item.answers) {
    add_tokens(hash, answer);
  }
}

Json caa_json(const EvaluationJob& job) {
  if (!job.caa) {
    return nullptr;
  }
  Json json = {{"file", absolute_text(job.options.caa.file)},
               {"selected", to_string(job.options.caa.selection)},
               {"weight", job.options.caa.weight},
               {"layer", job.caa->layer},
               {"epoch", job.caa->epoch},
               {"step", job.caa->step},
               {"norm_before_scaling", vector_norm(job.caa->value)},
               {"model", job.caa->model}};
  if (job.caa->site != Site::kBlock) {
    json["site"] = to_string(job.caa->site);
  }
  return json;
}

std::string evaluation_config(const EvaluationJob& job) {
  EvaluateOptions described = job.options;
  resolve(job.model.computation, described);
  described.chat_template = job.chat_template;
  described.max_length = job.max_length;
  Json json = stored_settings(evaluate_fields(described));
  json["model_fingerprint"] = fmt::format("{:016x}", job.model.files.fingerprint);
  json[kWeightsHashKey] = fmt::format("{:016x}", job.weights_hash);
  json["vectors"] = vectors_json(job.vectors);
  json["transfer"] = !transfer_warnings(job.vectors, job.model.files, job.weights_hash).empty();
  json["caa"] = caa_json(job);
  json["control_norm"] = job.plan.directions.front().norm;
  json["test_pairs"] = job.pairs.size();
  json["test_tokens_hash"] = fmt::format("{:016x}", tokens_hash(job.pairs));
  json["reference_window"] = job.reference_window;
  json["judge_seed"] = job.options.seed;
  json["world_size"] = job.model.computation.topology.world();
  store_template_date(job.options.template_date, json);
  return settings_text(json);
}

// Equal on ranks that are about to evaluate the same.
std::uint64_t agreement(const EvaluationJob& job) {
  ContentHash hash;
  hash.add(job.model.computation.kernels);
  hash.add(job.model.files.fingerprint);
  hash.add(job.weights_hash);
  hash.add(fmt::format("{} {} {} {} {}", job.options.batch_size, to_string(*job.options.positions),
                       job.options.positions->left_out_bos, name_of(job.model.computation.dtype),
                       to_string(job.options.intervention)));
  if (job.gate) {
    const PlacedVector& vector = job.gate->vector;
    hash.add(fmt::format("gate {} {}", vector.layer, job.gate->threshold));
    hash.add_bytes(vector.value.data(), vector.value.size() * sizeof(float));
  }
  for (const PlacedVector& vector : job.plan.vectors) {
    hash.add(fmt::format("{} {} {}", vector.layer, to_string(vector.site),
                         to_string(vector.intervention)));
    hash.add_bytes(vector.value.data(), vector.value.size() * sizeof(float));
  }
  for (const std::vector<double>& setting : job.plan.coefficients) {
    hash.add_bytes(setting.data(), setting.size() * sizeof(double));
  }
  hash.add(tokens_hash(job.pairs));
  for (const ChoiceQuestions& questions : job.choices) {
    for (const TokenizedChoice& item : questions.items) {
      add_continuations(hash, item.tokens);
    }
  }
  for (const auto* items : {&job.reference_text, &job.generation_tokens.items}) {
    for (const Continuations& item : *items) {
      add_continuations(hash, item);
    }
  }
  for (const PromptTokens& prompt : job.neutral_prompts) {
    add_tokens(hash, prompt.ids);
  }
  return hash.value();
}

// Returns warnings where the control is no mean difference, or one over other pairs than those that
// a vector was trained on.
std::vector<std::string> control_warnings(const EvaluationJob& job) {
  const auto settings_of_run = [](const StoredVector& vector) {
    Json settings = Json::parse(vector.config, nullptr, /*allow_exceptions=*/false);
    return settings.is_object() ? settings : Json::object();
  };
  const std::string file = job.options.caa.file.string();
  const Json control = settings_of_run(*job.caa);
  const Json method = control.value("method", Json());
  if (method != "caa") {
    const std::string kind = job.caa->step > 0 ? "a trained vector"
                             : method.is_string()
                                 ? fmt::format("one by --method {}", method.get<std::string>())
                                 : "an imported vector";
    return {
        fmt::format("--caa {}: no mean difference that `bipo-dist extract` made, but {}; the "
                    "tables call it caa",
                    file, kind)};
  }
  std::vector<std::string> warnings;
  for (const VectorInUse& vector : job.vectors) {
    const Json trained = settings_of_run(vector.stored);
    const char* const kHash = "train_tokens_hash";
    if (trained.contains(kHash) && control.contains(kHash) && trained[kHash] != control[kHash]) {
      warnings.push_back(fmt::format(
          "--caa {}: the mean difference of other pairs ({}) than those that {} was trained on "
          "({}), so that they differ by more than the method",
          file, control.value("train_pairs", Json()).dump(), vector.choice.file.string(),
          trained.value("train_pairs", Json()).dump()));
    }
  }
  return warnings;
}

}  // namespace

EvaluationJob prepare_evaluation(const EvaluateOptions& options, const std::string& now,
                                 const Session& session) {
  EvaluationJob job;
  job.options = options;
  job.options.template_date = choose_template_date(options.template_date, std::nullopt, now);
  job.created_utc = now;
  if (session.rank() == 0) {
    check_evaluation_places(options);
  }
  job.model = open_whole_model(options.model, options.adapter, options, session);
  job.weights_hash = hash_of_weights(*job.model.files.weights);
  job.vectors = read_vectors(options.vectors, job.model.files.config);
  if (!options.caa.empty()) {
    job.caa = read_stored_vector(options.caa.file, options.caa.selection);
  }
  check_intervention(job.vectors, options.intervention);
  if (const std::uint64_t bytes = conceptor_device_bytes(job.vectors, options.random_directions(),
                                                         job.model.computation.device);
      bytes > 0) {
    require_beside_weights(job.model,
                           fmt::format("{} conceptors with {} random ones for each (--random)",
                                       job.vectors.size(), options.random_directions()),
                           bytes, session);
  }
  job.gate = read_gate(options.gate, job.model.files.config);
  job.plan = plan_steering(job.vectors, job.caa, options);
  job.notes = vector_notes(job.vectors);
  if (job.caa) {
    job.notes.push_back(vector_note(options.caa, *job.caa) + ", scaled to that of the vectors");
  }
  job.warnings = job.model.files.warnings();
  for (std::string& warning :
       vector_warnings(with_gate(job.vectors, options.gate), job.model.files, job.weights_hash)) {
    job.warnings.push_back(std::move(warning));
  }
  if (job.caa) {
    if (auto warning = unfinished_warning(options.caa.file, *job.caa)) {
      job.warnings.push_back(std::move(*warning));
    }
    for (std::string& warning : control_warnings(job)) {
      job.warnings.push_back(std::move(warning));
    }
  }
  read_data(job);
  require_batch_room(job, memory_beside_weights(job.model, session));
  job.config = evaluation_config(job);
  job.agreement = agreement(job);
  return job;
}

}  // namespace bipo
