#include "tests/device/device_scenario.hpp"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <ostream>
#include <utility>

#include "collectives/exact_sum.hpp"
#include "experiments/generation/generation.hpp"
#include "tests/support/training_world.hpp"
#include "trainer/extraction/extraction_pass.hpp"
#include "trainer/loop/held_out_evaluation.hpp"
#include "trainer/passes/continuation_scores.hpp"

namespace bipo::testing {
namespace {

std::vector<float> random_vector(std::int64_t hidden, std::uint64_t seed) {
  const at::Tensor values = at::randn({hidden}, at::detail::createCPUGenerator(seed)) * 0.3;
  return {values.const_data_ptr<float>(), values.const_data_ptr<float>() + hidden};
}

void append(std::vector<double>& all, const at::Tensor& tensor) {
  const at::Tensor host = tensor.to(at::kCPU, at::kDouble).contiguous();
  all.insert(all.end(), host.const_data_ptr<double>(),
             host.const_data_ptr<double>() + host.numel());
}

CacheSettings cache_settings(const Scenario& scenario) {
  CacheSettings settings;
  settings.layers = {1, 2};
  settings.keep = scenario.keeps_activations;
  settings.type = scenario.type;
  return settings;
}

void add_record(Values& values, const std::string& name, const TrainingRecord& record) {
  for (const StepRow& row : record.steps) {
    values[name + ": loss"].push_back(row.loss);
    values[name + ": margin"].push_back(row.margin);
    values[name + ": gradient norm"].push_back(row.grad_norm);
  }
  for (const EvalRow& row : record.evals) {
    values[name + ": evaluation"].insert(values[name + ": evaluation"].end(),
                                         {row.loss, row.chosen_logp, row.rejected_logp});
  }
  values[name + ": vector"].assign(record.checkpoint.vector.begin(),
                                   record.checkpoint.vector.end());
}

// A text that a model wrote under one steering.
struct SteeredText {
  std::vector<TokenId> prompt;
  std::vector<double> multipliers;  // [M]
  std::vector<TokenId> tokens;
  double log_prob = 0;
};

// A scenario under way.
class Stages {
 public:
  Stages(const Scenario& scenario, const WeightSource& weights, const Ranks& ranks)
      : scenario_(scenario),
        ranks_(ranks),
        pairs_(varied_pairs(11)),
        decoder_(scenario.config, weights, scenario.type, scenario.device, *ranks.tp),
        cache_(decoder_, pairs_, cache_settings(scenario), ranks) {}

  Values run() {
    fill();
    train_vectors();
    evaluate();
    decoder_.load_embedding();
    decoder_.load_blocks({0, scenario_.config.blocks});
    generate();
    score();
    decoder_.release_blocks({0, scenario_.config.blocks});
    decoder_.release_embedding();
    extract();
    make_directions();
    add_exactly();
    return std::move(values_);
  }

  // The log-probabilities and losses of one vector's training, an evaluation and scores, by one
  // rank; leaves the model loaded.
  Values measure() {
    fill();
    evaluate();
    TrainingRecord record = starting_record(scenario_.config.hidden, 11);
    record.checkpoint.vector = random_vector(scenario_.config.hidden, 5);
    QuietObserver observer;
    const TrainingSettings settings = training_settings(2, 11, 0.05, 0.1, SignRule::kBatch);
    train(decoder_, cache_, nullptr, 1, {{settings, record, observer}}, ranks_);
    for (const StepRow& row : record.steps) {
      values_["losses"].push_back(row.loss);
    }
    decoder_.load_embedding();
    decoder_.load_blocks({0, scenario_.config.blocks});
    score();
    Values found;
    for (const char* const name :
         {"reference", "evaluation", "losses", "continuations", "interventions"}) {
      found[name] = values_.at(name);
    }
    return found;
  }

  // What the model, which measure() has loaded, writes, and what it gives other texts.
  std::vector<SteeredText> write() const {
    const GenerationSettings settings = generation_settings(SteeredPositions::kAll);
    std::vector<SteeredText> texts;
    for (const PromptAnswers& answers : answer(prompts(), settings)) {
      for (std::size_t s = 0; s < answers.texts.size(); ++s) {
        texts.push_back({prompts()[static_cast<std::size_t>(answers.number)].tokens,
                         settings.multipliers[s], answers.texts[s].tokens,
                         answers.texts[s].log_prob});
      }
    }
    return texts;
  }
  std::vector<double> log_probs_of(const std::vector<SteeredText>& texts) const {
    std::vector<double> log_probs;
    for (const SteeredText& text : texts) {
      const ContinuationScores scores =
          score_continuations({decoder_, ranks_, 1, {}}, {{text.prompt, {text.tokens}, "t:1"}},
                              vectors(), {{text.multipliers}, SteeredPositions::kAll});
      log_probs.push_back(scores[0][0][0].log_prob);
    }
    return log_probs;
  }

 private:
  void fill() {
    fill_caches(decoder_, {&cache_}, ranks_, ignore_progress);
    for (const std::int64_t layer : {1, 2}) {
      for (const AnswerLogProbs& answer : cache_.reference(layer)) {
        values_["reference"].insert(values_["reference"].end(), {answer.chosen, answer.rejected});
      }
      values_["median rms"].push_back(cache_.median_rms(layer));
    }
    const at::Tensor rows =
        cache_.activations(decoder_, pack_alike(pairs_, {2, 7, 0}, decoder_), 2);
    TORCH_CHECK(rows.device() == scenario_.device, "activations on ", rows.device());
    append(values_["activations"], rows);
    check_zero_vector(decoder_, cache_, 1, ranks_);
  }

  void train_vectors() {
    const TrainingSettings one = training_settings(2, 11, 0.05, 0.1, SignRule::kBatch);
    TrainingRecord record = starting_record(scenario_.config.hidden, 11);
    QuietObserver until_third(3);
    train(decoder_, cache_, nullptr, 1, {{one, record, until_third}}, ranks_);
    QuietObserver observer;
    TrainingRecord resumed = record;
    train(decoder_, cache_, nullptr, 1, {{one, resumed, observer}}, ranks_);
    add_record(values_, "one vector, resumed", resumed);
    TrainingRecord whole = starting_record(scenario_.config.hidden, 11);
    QuietObserver another;
    train(decoder_, cache_, nullptr, 1, {{one, whole, another}}, ranks_);
    TORCH_CHECK(whole.checkpoint.vector == resumed.checkpoint.vector, "a resumed training differs");

    const std::vector<TrainingSettings> three = {
        one, training_settings(2, 12, 0.05, 0.3, SignRule::kPair),
        training_settings(2, 11, 0.02, 0.1, SignRule::kBoth)};
    std::vector<TrainingRecord> records;
    for (const TrainingSettings& settings : three) {
      records.push_back(starting_record(scenario_.config.hidden, settings.plan.seed));
    }
    std::vector<QuietObserver> observers(three.size());
    std::vector<TrainingMember> members;
    for (std::size_t i = 0; i < three.size(); ++i) {
      members.push_back({three[i], records[i], observers[i]});
    }
    train(decoder_, cache_, &cache_, 1, members, ranks_);
    for (std::size_t i = 0; i < three.size(); ++i) {
      add_record(values_, "pack, vector " + std::to_string(i), records[i]);
    }
  }

  void evaluate() {
    const HeldOutEvaluation evaluation =
        evaluate_pairs({decoder_, ranks_, 4, {}}, cache_, 2,
                       random_vector(scenario_.config.hidden, 4), {-1, 0, 2}, Objective());
    for (const EvalRow& row : evaluation.rows) {
      values_["evaluation"].insert(values_["evaluation"].end(),
                                   {row.loss, row.chosen_logp, row.rejected_logp});
    }
  }

  SteeringVectors vectors() const { return vectors({}, {}); }

  // Two of the three act by `first` and `second`.
  SteeringVectors vectors(const Intervention& first, const Intervention& second) const {
    const std::int64_t hidden = scenario_.config.hidden;
    return SteeringVectors({{0, random_vector(hidden, 1), first},
                            {1, random_vector(hidden, 2), second},
                            {1, random_vector(hidden, 3)}},
                           decoder_);
  }

  void generate() {
    std::vector<NumberedPrompt> mine;
    const std::vector<NumberedPrompt> all = prompts();
    const auto first = static_cast<std::size_t>(ranks_.topology.dp_rank());
    const std::size_t share = (all.size() + static_cast<std::size_t>(ranks_.topology.dp()) - 1) /
                              static_cast<std::size_t>(ranks_.topology.dp());
    for (std::size_t i = first * share; i < std::min(all.size(), (first + 1) * share); ++i) {
      mine.push_back(all[i]);
    }
    for (const auto positions : {SteeredPositions::kAll, SteeredPositions::kAnswer}) {
      const GenerationSettings settings = generation_settings(positions);
      add_answers(gather_answers(answer(mine, settings), settings, scenario_.device, *ranks_.dp));
    }
  }

  static std::vector<NumberedPrompt> prompts() {
    return {{0, {1, 5, 9, 3}}, {1, {4}}, {2, {4, 4, 32, 33, 34, 7, 8}}};
  }

  GenerationSettings generation_settings(const SteeredPositions& positions) const {
    GenerationSettings settings;
    settings.multipliers = {{-2, -2, 1}, {0, 0, 0}, {1.5, 1, 2}};
    settings.max_new_tokens = 8;
    settings.positions = positions;
    settings.has_independent_rows = decoder_.has_independent_cached_rows();
    return settings;
  }

  std::vector<PromptAnswers> answer(const std::vector<NumberedPrompt>& mine,
                                    const GenerationSettings& settings) const {
    const SteeringVectors steering = vectors();
    TextGenerator generator(decoder_, steering, settings,
                            generation_room(scenario_.config, mine, /*at_once=*/2, settings),
                            [](std::int64_t, std::int64_t, TokenId) {});
    for (const NumberedPrompt& prompt : mine) {
      generator.add({prompt});
    }
    std::vector<PromptAnswers> answered;
    while (generator.unfinished() > 0) {
      for (PromptAnswers& answers : generator.step()) {
        answered.push_back(std::move(answers));
      }
    }
    return answered;
  }

  void add_answers(std::vector<PromptAnswers> all) {
    std::sort(all.begin(), all.end(),
              [](const PromptAnswers& a, const PromptAnswers& b) { return a.number < b.number; });
    for (const PromptAnswers& answers : all) {
      for (const GeneratedText& text : answers.texts) {
        values_["generated tokens"].insert(values_["generated tokens"].end(), text.tokens.begin(),
                                           text.tokens.end());
        values_["generated log-probability"].push_back(text.log_prob);
      }
    }
  }

  void score() {
    const std::vector<std::vector<double>> coefficients = {{0, 0, 0}, {1, -1, 0.5}, {-2, 0, 1}};
    const std::vector<Continuations> items = {{{1, 5, 9, 3}, {{7, 8, 2}, {11, 2}}, "i:1"},
                                              {{4, 4}, {{20}}, "i:2"},
                                              {{4, 4, 32, 33, 34}, {{6, 5}, {0, 1, 2}, {6}}, "i:3"},
                                              {{9}, {{30, 31}, {2}}, "i:4"}};
    const ScoringContext context{decoder_, ranks_, 2, {}};
    for (const auto positions : {SteeredPositions::kAll, SteeredPositions::kAnswer}) {
      for (const auto& of_setting :
           score_continuations(context, items, vectors(), {coefficients, positions})) {
        for (const auto& of_item : of_setting) {
          for (const AnswerScore& answer : of_item) {
            values_["continuations"].push_back(answer.log_prob);
          }
        }
      }
    }
    const SteeringVectors others =
        vectors({Intervention::Kind::kNull, 0}, {Intervention::Kind::kClamp, 0.5});
    for (const auto& of_setting : score_continuations(
             context, items, others,
             {coefficients, parse_positions("first:2,last:1"), {true, true, false, true}})) {
      for (const auto& of_item : of_setting) {
        for (const AnswerScore& answer : of_item) {
          values_["interventions"].push_back(answer.log_prob);
        }
      }
    }
    const std::int64_t hidden = scenario_.config.hidden;
    const SteeringVectors conceptors(
        {{0, random_vector(hidden * hidden, 5), {Intervention::Kind::kConceptor, 0.5}},
         {1, random_vector(hidden, 2)},
         {1, random_vector(hidden * hidden, 6), {Intervention::Kind::kConceptor, 1}}},
        decoder_);
    for (const auto& of_setting : score_continuations(context, items, conceptors,
                                                      {coefficients, SteeredPositions::kAnswer})) {
      for (const auto& of_item : of_setting) {
        for (const AnswerScore& answer : of_item) {
          values_["conceptors"].push_back(answer.log_prob);
        }
      }
    }
    const std::vector<PromptTokens> prompts = {
        {{1, 5, 9, 3}, "p:1"}, {{4}, "p:2"}, {{4, 4, 32, 33}, "p:3"}};
    values_["gates"] =
        gate_projections(context, prompts, {{1, random_vector(scenario_.config.hidden, 4)}, 0});
    for (const auto& of_setting :
         prompt_divergences(context, prompts, vectors(), {coefficients, SteeredPositions::kAll})) {
      for (const PromptDivergence& of_prompt : of_setting) {
        values_["divergences"].push_back(of_prompt.sum);
      }
    }
  }

  void extract() {
    for (const bool block_by_block : {true, false}) {
      ExtractionSettings settings;
      settings.layers = {0, 2};
      settings.answers_end_with_eos = false;
      settings.block_by_block = block_by_block;
      for (const ExtractedDirection& found : extract_directions(
               decoder_, pairs_, settings, mean_difference_statistics(), ranks_, ignore_progress)) {
        values_["mean differences"].insert(values_["mean differences"].end(), found.value.begin(),
                                           found.value.end());
        values_["mean differences"].push_back(found.median_rms);
      }
    }
  }

  // From made-up activations, so that only the methods' own work may differ, and does not.
  void make_directions() {
    constexpr std::int64_t kPairs = 6;
    constexpr std::int64_t kSize = 20;
    const auto row = [&](std::int64_t number) {
      const auto seed = static_cast<std::uint64_t>(60 + number);
      return at::tensor(random_vector(kSize, seed)).to(scenario_.device, at::kDouble);
    };
    for (const MakeStatistics& method :
         {probe_statistics(1), pca_statistics(), mean_centring_statistics(2), freeform_statistics(),
          confident_statistics(1, 0.5)}) {
      const auto statistics = method({0, kSize, kPairs, kPairs, scenario_.device, &ranks_});
      for (std::int64_t pair = ranks_.topology.dp_rank(); pair < kPairs;
           pair += ranks_.topology.dp()) {
        statistics->add(pair, pair, row(2 * pair), row(2 * pair + 1));
      }
      append(values_["directions"], statistics->direction(0.3));
    }
  }

  void add_exactly() {
    std::vector<at::Tensor> terms;
    for (int i = ranks_.topology.dp_rank(); i < 3; i += ranks_.topology.dp()) {
      terms.push_back(
          at::tensor(random_vector(20, 40 + static_cast<std::uint64_t>(i))).to(scenario_.device));
    }
    append(values_["exact sum"], exact_sum(terms, 20, scenario_.device, 3, *ranks_.dp));
  }

  const Scenario& scenario_;
  const Ranks& ranks_;
  std::vector<TokenPair> pairs_;
  Decoder decoder_;
  ActivationCache cache_;
  Values values_;
};

double distance(const std::vector<double>& found, const std::vector<double>& expected) {
  double squares = 0;
  double norm = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    squares += (found[i] - expected[i]) * (found[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(squares / norm);
}

// Half the distance between a bfloat16 number and the next.
constexpr double kRoundoff = 1.0 / 256;

}  // namespace

void PrintTo(const ModelCase& value, std::ostream* out) {
  *out << value.name << ' ' << value.type;
}

std::string name_of_case(const ::testing::TestParamInfo<ModelCase>& info) {
  return std::string(info.param.name) + c10::toString(info.param.type);
}

std::vector<ModelCase> all_model_cases() {
  std::vector<ModelCase> cases;
  for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
    cases.insert(cases.end(), {{"Llama", llama_config, type},
                               {"Gemma", gemma_config, type},
                               {"Qwen", qwen_config, type},
                               {"Gemma4", gemma4_config, type},
                               {"Cohere", cohere_config, type},
                               {"Olmo", olmo_config, type},
                               {"Glm", glm_config, type},
                               {"Scaled", scaled_config, type},
                               {"Recurrent", recurrent_config, type}});
  }
  return cases;
}

ModelConfig flash_config() {
  ModelConfig config = llama_config();
  config.head_size = 8;
  return config;
}

ModelConfig flash_window_config() {
  ModelConfig config = flash_config();
  config.query_key_value_bias = true;
  config.query_key_norms = QueryKeyNorms::kByHead;
  config.attention_kinds = {AttentionKind{}, AttentionKind{}};
  config.attention_kinds[0].window = 3;
  config.kind_of_block = {0, 1, 0, 1};
  return config;
}

Values run_everything(const Scenario& scenario, const WeightSource& weights, const Ranks& ranks) {
  return Stages(scenario, weights, ranks).run();
}

Values train_objectives(const Scenario& scenario, const WeightSource& weights, const Ranks& ranks) {
  const std::vector<TokenPair> pairs = varied_pairs(11);
  Decoder decoder(scenario.config, weights, scenario.type, scenario.device, *ranks.tp);
  ActivationCache cache(decoder, pairs, cache_settings(scenario), ranks);
  CacheSettings free = cache_settings(scenario);
  free.reference = false;
  ActivationCache without_reference(decoder, pairs, free, ranks);
  fill_caches(decoder, {&cache, &without_reference}, ranks, ignore_progress);
  const std::vector<std::pair<Objective, SignRule>> kinds = {
      {{ObjectiveKind::kBipo, 0.3, 0, 0.5, Reduction::kSum}, SignRule::kBatch},
      {{ObjectiveKind::kBipo, 0.3, 0.2, 0.5, Reduction::kMean}, SignRule::kPair},
      {{ObjectiveKind::kIpo, 0.4, 0, 0.5, Reduction::kMean}, SignRule::kBoth},
      {{ObjectiveKind::kSimpo, 2, 0.1, 0.7, Reduction::kMean}, SignRule::kMinus},
      {{ObjectiveKind::kSft, 0.3, 0, 0.5, Reduction::kSum}, SignRule::kPair},
      {{ObjectiveKind::kSuppress, 0.3, 0, 0.5, Reduction::kSum}, SignRule::kPair},
      {{ObjectiveKind::kReps, 0.3, 0.1, 0.5, Reduction::kMean}, SignRule::kBoth}};
  Values values;
  std::vector<TrainingSettings> settings;
  std::vector<TrainingRecord> records;
  for (const auto& [objective, sign] : kinds) {
    settings.push_back(training_settings(2, 11, 0.05, 0.1, sign));
    settings.back().objective = objective;
    settings.back().plan.factors = {0.5, 1, 2};
    settings.back().positions = parse_positions(sign == SignRule::kBoth    ? "first:2,last:1"
                                                : sign == SignRule::kMinus ? "answer"
                                                                           : "all");
    records.push_back(starting_record(scenario.config.hidden, 11));
  }
  settings[5].factor = FactorTraining{0.1, 2};
  std::vector<QuietObserver> observers(settings.size());
  std::vector<TrainingMember> members;
  for (std::size_t i = 0; i < settings.size(); ++i) {
    members.push_back({settings[i], records[i], observers[i]});
  }
  train(decoder, cache, &cache, 1, members, ranks);
  for (std::size_t i = 0; i < settings.size(); ++i) {
    add_record(values, to_string(settings[i].objective.kind) + std::to_string(i), records[i]);
  }
  TrainingSettings alone = settings[3];  // SimPO, in the same micro-batches every epoch
  alone.plan.sign = SignRule::kBatch;
  alone.plan.shuffle = false;
  TrainingRecord record = starting_record(scenario.config.hidden, 11);
  QuietObserver observer;
  train(decoder, without_reference, nullptr, 1, {{alone, record, observer}}, ranks);
  add_record(values, "simpo without reference", record);
  TrainingSettings sums = settings[6];  // RePS, of which nothing is as in BiPO
  sums.objective.label_smoothing = 0;
  sums.objective.reduction = Reduction::kSum;
  TrainingRecord of_sums = starting_record(scenario.config.hidden, 11);
  train(decoder, cache, nullptr, 1, {{sums, of_sums, observer}}, ranks);
  add_record(values, "reps of sums", of_sums);
  // BiPO and RePS with a vector at each of two layers, the model's last among them.
  const SteeredLayers joint(std::vector<std::int64_t>{1, scenario.config.blocks - 1});
  std::vector<TrainingRecord> jointly(2, starting_record(2 * scenario.config.hidden, 11));
  std::vector<QuietObserver> quiet(2);
  train(decoder, cache, &cache, joint,
        {{settings[0], jointly[0], quiet[0]}, {sums, jointly[1], quiet[1]}}, ranks);
  add_record(values, "bipo at two layers", jointly[0]);
  add_record(values, "reps at two layers", jointly[1]);
  // The same at the MLPs.
  CacheSettings at_mlps = cache_settings(scenario);
  at_mlps.site = Site::kMlp;
  ActivationCache inputs(decoder, pairs, at_mlps, ranks);
  fill_caches(decoder, {&inputs}, ranks, ignore_progress);
  std::vector<TrainingRecord> of_mlps(2, starting_record(2 * scenario.config.hidden, 11));
  train(decoder, inputs, &inputs, joint.at(Site::kMlp),
        {{settings[0], of_mlps[0], quiet[0]}, {sums, of_mlps[1], quiet[1]}}, ranks);
  add_record(values, "bipo at two MLPs", of_mlps[0]);
  add_record(values, "reps at two MLPs", of_mlps[1]);
  return values;
}

std::vector<double> first_gradient(const Scenario& scenario, const WeightSource& weights,
                                   std::uint64_t seed) {
  const Ranks ranks = lone_ranks();
  const std::vector<TokenPair> pairs = varied_pairs(11);
  Decoder decoder(scenario.config, weights, scenario.type, scenario.device, *ranks.tp);
  ActivationCache cache(decoder, pairs, cache_settings(scenario), ranks);
  fill_caches(decoder, {&cache}, ranks, ignore_progress);
  TrainingSettings settings = training_settings(2, seed, 0.05, 0.1, SignRule::kBatch);
  settings.plan.batch_size = 11;
  settings.plan.max_steps = 1;
  settings.max_grad_norm = 0;
  TrainingRecord record = starting_record(scenario.config.hidden, seed);
  record.checkpoint.vector = random_vector(scenario.config.hidden, seed);
  QuietObserver observer;
  train(decoder, cache, nullptr, 1, {{settings, record, observer}}, ranks);
  // The first moment after one step is a tenth of the gradient.
  std::vector<double> gradient;
  for (const float moment : record.checkpoint.exp_avg) {
    gradient.push_back(static_cast<double>(moment) / (1 - settings.optimizer.beta1));
  }
  return gradient;
}

void expect_near(const Values& found, const Values& expected, double tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [name, numbers] : expected) {
    const std::vector<double>& other = found.at(name);
    ASSERT_EQ(other.size(), numbers.size()) << name;
    double largest = 1e-30;
    double worst = 0;
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      largest = std::max(largest, std::abs(numbers[i]));
      worst = std::isnan(other[i]) ? INFINITY : std::max(worst, std::abs(numbers[i] - other[i]));
    }
    EXPECT_LE(worst, tolerance * largest) << name;
  }
}

GradientErrors gradient_errors(const ModelConfig& config, at::Device device) {
  constexpr int kDraws = 6;
  GradientErrors errors;
  for (int draw = 1; draw <= kDraws; ++draw) {
    const auto seed = static_cast<std::uint64_t>(draw);
    const RandomWeights weights(config, seed);
    const auto of = [&](at::ScalarType type, at::Device where) {
      return first_gradient({config, type, where, true}, weights, seed);
    };
    const std::vector<double> exact = of(at::kDouble, at::kCPU);
    errors.cpu += std::pow(distance(of(at::kBFloat16, at::kCPU), exact) / kRoundoff, 2) / kDraws;
    errors.device += std::pow(distance(of(at::kBFloat16, device), exact) / kRoundoff, 2) / kDraws;
  }
  return {std::sqrt(errors.cpu), std::sqrt(errors.device)};
}

std::map<std::string, GradientErrors> value_errors(const ModelConfig& config, at::Device device) {
  constexpr int kDraws = 2;
  const Ranks ranks = lone_ranks();
  std::map<std::string, GradientErrors> errors;
  for (int draw = 1; draw <= kDraws; ++draw) {
    const RandomWeights weights(config, static_cast<std::uint64_t>(draw));
    const Scenario double_precision{config, at::kDouble, at::kCPU, true};
    Stages exact(double_precision, weights, ranks);
    const Values expected = exact.measure();
    const auto add = [&](at::Device where, double GradientErrors::*place) {
      const Scenario narrow{config, at::kBFloat16, where, true};
      Stages stages(narrow, weights, ranks);
      const auto note = [&](const std::string& name, double error) {
        errors[name].*place += std::pow(error / kRoundoff, 2) / kDraws;
      };
      for (const auto& [name, numbers] : stages.measure()) {
        note(name, distance(numbers, expected.at(name)));
      }
      const std::vector<SteeredText> texts = stages.write();
      std::vector<double> written;
      for (const SteeredText& text : texts) {
        written.push_back(text.log_prob);
      }
      note("generated texts", distance(written, exact.log_probs_of(texts)));
    };
    add(at::kCPU, &GradientErrors::cpu);
    add(device, &GradientErrors::device);
  }
  for (auto& [name, of_name] : errors) {
    of_name = {std::sqrt(of_name.cpu), std::sqrt(of_name.device)};
  }
  return errors;
}

}  // namespace bipo::testing
