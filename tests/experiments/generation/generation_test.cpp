// Generation against a decoder that knows no cache: every token from the whole sequence anew.
#include "experiments/generation/generation.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <ostream>
#include <string>
#include <vector>

#include "collectives/self_communicator.hpp"
#include "tests/support/naive_decoder.hpp"
#include "tests/support/thread_communicator.hpp"
#include "tests/support/tiny_model.hpp"

namespace bipo {
namespace {

using testing::naive_logits;
using testing::RandomWeights;
using testing::tiny_config;
using testing::tiny_recurrent_config;

void ignore_token(std::int64_t /*prompt*/, std::int64_t /*setting*/, TokenId /*token*/) {
}

// What a generator did.
struct Answered {
  std::vector<GeneratedText> texts;   // [P S], by number of the prompt
  std::vector<std::int64_t> numbers;  // of the prompts, in the order in which they were answered
  std::int64_t steps = 0;
};

// Answers `prompts`, `at_once` of them together.
Answered answer(const Decoder& decoder, const SteeringVectors& vectors,
                const std::vector<NumberedPrompt>& prompts, const GenerationSettings& settings,
                std::int64_t at_once, const TextGenerator::OnToken& on_token = ignore_token) {
  TextGenerator generator(decoder, vectors, settings,
                          generation_room(decoder.config(), prompts, at_once, settings), on_token);
  for (std::size_t first = 0; first < prompts.size(); first += static_cast<std::size_t>(at_once)) {
    const std::size_t end = std::min(prompts.size(), first + static_cast<std::size_t>(at_once));
    generator.add({prompts.begin() + static_cast<std::ptrdiff_t>(first),
                   prompts.begin() + static_cast<std::ptrdiff_t>(end)});
  }
  Answered answered;
  std::map<std::int64_t, std::vector<GeneratedText>> by_number;
  while (generator.unfinished() > 0) {
    for (const PromptAnswers& answers : generator.step()) {
      answered.numbers.push_back(answers.number);
      by_number[answers.number] = answers.texts;
    }
    ++answered.steps;
  }
  EXPECT_EQ(by_number.size(), prompts.size());
  for (const auto& [number, texts] : by_number) {
    answered.texts.insert(answered.texts.end(), texts.begin(), texts.end());
  }
  return answered;
}

// Answers all prompts together.
std::vector<GeneratedText> generate_batch(const Decoder& decoder, const SteeringVectors& vectors,
                                          const std::vector<NumberedPrompt>& prompts,
                                          const GenerationSettings& settings) {
  return answer(decoder, vectors, prompts, settings, static_cast<std::int64_t>(prompts.size()))
      .texts;
}

std::vector<float> random_vector(std::int64_t hidden, std::uint64_t seed) {
  at::manual_seed(seed);
  const at::Tensor values = at::randn({hidden});
  return {values.const_data_ptr<float>(), values.const_data_ptr<float>() + hidden};
}

std::vector<PlacedVector> two_layers() {
  return {{0, random_vector(20, 1)}, {1, random_vector(20, 2)}, {1, random_vector(20, 3)}};
}

// Prompts of different lengths, one of a single token.
std::vector<NumberedPrompt> prompts() {
  return {{0, {1, 5, 9, 3}}, {1, {4}}, {2, {4, 4, 32, 33, 34, 7, 8}}};
}

GenerationSettings settings_for(const std::vector<std::vector<double>>& multipliers) {
  GenerationSettings settings;
  settings.multipliers = multipliers;
  settings.max_new_tokens = 12;
  return settings;
}

const std::vector<std::vector<double>> kMultipliers = {{-2, -2, 1}, {0, 0, 0}, {1.5, 1, 2}};

struct Model {
  explicit Model(const ModelConfig& model_config, at::ScalarType type = at::kDouble)
      : config(model_config), weights(config), decoder(config, weights, type, at::kCPU, alone) {
    decoder.load_embedding();
    decoder.load_blocks({0, config.blocks});
  }

  std::vector<GeneratedText> generate(const std::vector<PlacedVector>& vectors,
                                      const GenerationSettings& settings) const {
    return generate_batch(decoder, SteeringVectors(vectors, decoder), prompts(), settings);
  }

  ModelConfig config;
  RandomWeights weights;
  SelfCommunicator alone;
  Decoder decoder;
};

// What is added at the site of each block to a sequence of `length` tokens of which `prompt` are
// the prompt's.
std::map<std::int64_t, at::Tensor> added(const std::vector<PlacedVector>& vectors,
                                         const std::vector<double>& multipliers,
                                         std::int64_t length, std::int64_t prompt,
                                         SteeredPositions positions, Site site) {
  const at::Tensor steered = at::zeros({length, 1}, at::kDouble);
  for (std::int64_t t = 0; t < length; ++t) {
    const bool is_at_end = t < positions.first || t >= prompt - positions.last;
    const bool is_of_prompt =
        positions.kind == SteeredPositions::Kind::kEnds ? is_at_end : positions.steers_prompts();
    steered[t] = (t < prompt ? is_of_prompt : positions.steers_answers()) ? 1 : 0;
  }
  std::map<std::int64_t, at::Tensor> result;
  for (std::size_t m = 0; m < vectors.size(); ++m) {
    if (vectors[m].site != site) {
      continue;
    }
    const at::Tensor term =
        steered * multipliers[m] * at::tensor(vectors[m].value, at::kFloat).to(at::kDouble);
    auto& sum = result[vectors[m].layer];
    sum = sum.defined() ? sum + term : term;
  }
  return result;
}

// Greedy, from the whole sequence at every step.
GeneratedText naive_text(const Model& model, const std::vector<PlacedVector>& vectors,
                         const std::vector<TokenId>& prompt, const std::vector<double>& multipliers,
                         const GenerationSettings& settings) {
  GeneratedText text;
  std::vector<std::int64_t> ids(prompt.begin(), prompt.end());
  while (static_cast<std::int64_t>(text.tokens.size()) < settings.max_new_tokens &&
         static_cast<std::int64_t>(ids.size()) < model.config.context) {
    const auto length = static_cast<std::int64_t>(ids.size());
    const auto added_at = [&](Site site) {
      return added(vectors, multipliers, length, static_cast<std::int64_t>(prompt.size()),
                   settings.positions, site);
    };
    testing::NaiveMlpChanges changes;
    for (const auto& [layer, term] : added_at(Site::kMlp)) {
      changes[layer] = [rows = term](const at::Tensor& output) { return output + rows; };
    }
    const at::Tensor log_probs = at::log_softmax(
        naive_logits(model.config, model.weights, ids, added_at(Site::kBlock), changes)[length - 1],
        0);
    const auto token = log_probs.argmax().item<std::int64_t>();
    for (const TokenId stop : settings.stop_tokens) {
      text.stopped = text.stopped || stop == token;
    }
    if (text.stopped) {
      break;
    }
    text.tokens.push_back(static_cast<TokenId>(token));
    text.log_prob += log_probs[token].item<double>();
    ids.push_back(token);
  }
  return text;
}

void expect_naive(const Model& model, const std::vector<PlacedVector>& vectors,
                  const GenerationSettings& settings, double tolerance) {
  const std::vector<GeneratedText> texts = model.generate(vectors, settings);
  const auto all = prompts();
  ASSERT_EQ(texts.size(), all.size() * settings.multipliers.size());
  std::size_t next = 0;
  for (const NumberedPrompt& prompt : all) {
    for (const std::vector<double>& multipliers : settings.multipliers) {
      const GeneratedText expected =
          naive_text(model, vectors, prompt.tokens, multipliers, settings);
      const GeneratedText& text = texts[next++];
      EXPECT_EQ(text.tokens, expected.tokens);
      EXPECT_EQ(text.stopped, expected.stopped);
      EXPECT_NEAR(text.log_prob, expected.log_prob, tolerance);
    }
  }
}

TEST(Generation, EqualsTheDecoderWithoutACache) {
  // log-probabilities pass through float32 when tokens are chosen: 12 sums of numbers below 8.
  expect_naive(Model(tiny_config()), two_layers(), settings_for(kMultipliers), 12 * 8 * 0x1p-22);
}

TEST(Generation, InFloat32Too) {
  expect_naive(Model(tiny_config(), at::kFloat), two_layers(), settings_for(kMultipliers), 1e-3);
}

TEST(Generation, SteersTheAnswerAlone) {
  GenerationSettings settings = settings_for(kMultipliers);
  settings.positions = SteeredPositions::kAnswer;
  expect_naive(Model(tiny_config()), two_layers(), settings, 1e-4);
}

TEST(Generation, SteersTheEndsOfPrompts) {
  for (const char* text : {"prompt", "first:2,last:1", "first:1", "last:3"}) {
    GenerationSettings settings = settings_for(kMultipliers);
    settings.positions = parse_positions(text);
    expect_naive(Model(tiny_config()), two_layers(), settings, 1e-4);
  }
}

TEST(Generation, APromptWithAClosedGateIsNotSteered) {
  const Model model(tiny_config());
  const SteeringVectors vectors(two_layers(), model.decoder);
  const GenerationSettings settings = settings_for(kMultipliers);
  std::vector<NumberedPrompt> gated = prompts();
  gated[2].is_open = false;
  const auto open = generate_batch(model.decoder, vectors, prompts(), settings);
  const auto texts = generate_batch(model.decoder, vectors, gated, settings);
  for (std::size_t s = 0; s < 3; ++s) {
    EXPECT_EQ(texts[s].tokens, open[s].tokens);
    EXPECT_EQ(texts[6 + s].tokens, open[7].tokens);  // as at multipliers of 0
    EXPECT_NEAR(texts[6 + s].log_prob, open[7].log_prob, 1e-4);
  }
  EXPECT_NE(open[6].tokens, open[7].tokens);
}

// Behind the MLPs is a norm.  The lowest site is the first block's MLP, before which no block runs;
// at one block both sites are steered.
TEST(Generation, SteersMlpsBesideBlocks) {
  ModelConfig config = tiny_config();
  config.output_norms = true;
  std::vector<PlacedVector> vectors = two_layers();
  vectors[0].site = Site::kMlp;
  vectors[1].site = Site::kMlp;
  for (const char* positions : {"all", "answer", "first:2,last:1"}) {
    GenerationSettings settings = settings_for(kMultipliers);
    settings.positions = parse_positions(positions);
    expect_naive(Model(config), vectors, settings, 1e-4);
  }
  expect_naive(Model(config, at::kFloat), vectors, settings_for(kMultipliers), 1e-3);
}

TEST(Generation, OfALaterBlockOnly) {
  const ModelConfig config = tiny_config();
  GenerationSettings settings = settings_for({{-3}, {3}});
  expect_naive(Model(config), {{config.blocks - 1, random_vector(20, 5)}}, settings, 1e-4);
}

TEST(Generation, ARecurrentModelGoesOnFromItsStates) {
  for (const SteeredPositions positions : {SteeredPositions::kAll, SteeredPositions::kAnswer}) {
    GenerationSettings settings = settings_for(kMultipliers);
    settings.positions = positions;
    expect_naive(Model(tiny_recurrent_config()), two_layers(), settings, 1e-4);
    expect_naive(Model(tiny_recurrent_config(), at::kFloat), two_layers(), settings, 1e-3);
  }
}

TEST(Generation, WithoutAVectorAllSettingsAreAlike) {
  expect_naive(Model(tiny_config()), {}, settings_for({{}, {}}), 1e-4);
}

TEST(Generation, EndsAtTheFirstStopToken) {
  const Model model(tiny_config());
  GenerationSettings settings = settings_for(kMultipliers);
  const std::vector<GeneratedText> whole = model.generate(two_layers(), settings);
  settings.stop_tokens = {whole[0].tokens[3], whole[4].tokens[5]};
  const std::vector<GeneratedText> texts = model.generate(two_layers(), settings);
  EXPECT_TRUE(texts[0].stopped);
  EXPECT_LE(texts[0].tokens.size(), 3U);
  expect_naive(model, two_layers(), settings, 1e-4);
}

TEST(Generation, AStepIsOneTokenOfEveryText) {
  const Model model(tiny_config());
  const GenerationSettings settings = settings_for(kMultipliers);
  const SteeringVectors vectors(two_layers(), model.decoder);
  int tokens = 0;
  TextGenerator generator(model.decoder, vectors, settings,
                          generation_room(model.config, prompts(), 3, settings),
                          [&](std::int64_t, std::int64_t, TokenId) { ++tokens; });
  generator.add(prompts());
  for (int step = 1; step <= 3; ++step) {
    EXPECT_TRUE(generator.step().empty());
    EXPECT_EQ(tokens, step * 9);
    EXPECT_EQ(generator.unfinished(), 3);
  }
}

TEST(Generation, EndsAtTheModelsContext) {
  ModelConfig config = tiny_config();
  config.context = 9;
  const Model model(config);
  const auto texts = model.generate(two_layers(), settings_for(kMultipliers));
  EXPECT_EQ(texts[0].tokens.size(), 5U);
  EXPECT_EQ(texts.back().tokens.size(), 2U);
  EXPECT_FALSE(texts.back().stopped);
}

void expect_same_bits(const GeneratedText& one, const GeneratedText& other) {
  EXPECT_EQ(one.tokens, other.tokens);
  EXPECT_EQ(one.stopped, other.stopped);
  EXPECT_EQ(std::memcmp(&one.log_prob, &other.log_prob, sizeof(double)), 0);
}

// The other texts of the batch end elsewhere, as some of them meet the stop token.
TEST(Generation, MultiplierZeroIsTheBatchWithoutAVectorToTheBit) {
  const Model model(tiny_config(), at::kFloat);
  GenerationSettings steered = settings_for(kMultipliers);
  steered.stop_tokens = {model.generate(two_layers(), steered)[0].tokens[2]};
  GenerationSettings plain = steered;
  plain.multipliers = {{}, {}, {}};
  const auto with_vectors = model.generate(two_layers(), steered);
  const auto without = model.generate({}, plain);
  for (std::size_t p = 0; p < prompts().size(); ++p) {
    expect_same_bits(with_vectors[3 * p + 1], without[3 * p + 1]);
  }
}

// A window in some blocks, gates and states in others.
ModelConfig gated_recurrent_config() {
  ModelConfig config = tiny_recurrent_config();
  config.gated_attention = true;
  config.query_key_norms = QueryKeyNorms::kByHead;
  config.attention_kinds.front().window = 5;
  return config;
}

// Prompts that begin alike, texts that end early beside others that grow on, one block of settings.
TEST(Generation, IndependentRowsHaveTheBitsOfATextAlone) {
  ModelConfig config = tiny_config();
  config.attention_kinds.front().window = 5;
  for (const ModelConfig& each : {tiny_config(), config, gated_recurrent_config()}) {
    const Model model(each, at::kFloat);
    if (!model.decoder.has_independent_cached_rows()) {
      GTEST_SKIP() << "this processor multiplies no tiles";
    }
    const std::vector<NumberedPrompt> alike = {
        {0, {1, 5, 9, 3}}, {1, {1, 5, 9}}, {2, {1, 5, 9, 3, 7, 7, 2, 8}}, {3, {1, 5, 2}}};
    for (const SteeredPositions& positions :
         {SteeredPositions::kAll, SteeredPositions::kAnswer, parse_positions("first:1,last:2")}) {
      const SteeringVectors vectors(two_layers(), model.decoder);
      GenerationSettings together = settings_for(kMultipliers);
      together.has_independent_rows = true;
      together.positions = positions;
      const auto endless = generate_batch(model.decoder, vectors, alike, together);
      together.stop_tokens = {endless[0].tokens[2], endless[7].tokens[4]};
      const auto texts = generate_batch(model.decoder, vectors, alike, together);
      EXPECT_TRUE(texts[0].stopped);
      for (std::size_t i = 0; i < texts.size(); ++i) {
        GenerationSettings alone = together;
        alone.multipliers = {kMultipliers[i % 3]};
        alone.has_independent_rows = false;
        expect_same_bits(texts[i],
                         generate_batch(model.decoder, vectors, {alike[i / 3]}, alone).front());
      }
    }
  }
}

TEST(Generation, AVectorTwiceIsTheVectorWithTwiceItsMultiplier) {
  const Model model(tiny_config());
  const std::vector<float> vector = random_vector(20, 4);
  const auto once = model.generate({{1, vector}}, settings_for({{2}}));
  const auto twice = model.generate({{1, vector}, {1, vector}}, settings_for({{1, 1}}));
  for (std::size_t i = 0; i < once.size(); ++i) {
    EXPECT_EQ(once[i].tokens, twice[i].tokens);
    EXPECT_NEAR(once[i].log_prob, twice[i].log_prob, 1e-4);
  }
}

TEST(Generation, RotaryWindowsAndSoftCapsGoThroughTheCache) {
  ModelConfig config = tiny_config();
  config.attention_soft_cap = 1.5;
  config.logit_soft_cap = 3;
  config.attention_kinds.front().window = 3;
  // The same model without a cache: packed sequences of all lengths, scored token by token.
  const Model model(config);
  const auto vectors = two_layers();
  const GenerationSettings settings = settings_for(kMultipliers);
  const auto texts = model.generate(vectors, settings);
  const SteeringVectors steering(vectors, model.decoder);
  std::size_t next = 0;
  for (const NumberedPrompt& prompt : prompts()) {
    for (const std::vector<double>& multipliers : settings.multipliers) {
      const GeneratedText& text = texts[next++];
      std::vector<std::int64_t> ids(prompt.tokens.begin(), prompt.tokens.end());
      ids.insert(ids.end(), text.tokens.begin(), text.tokens.end());
      const auto length = static_cast<std::int64_t>(ids.size());
      std::vector<std::int64_t> positions(ids.size());
      std::vector<std::int64_t> all(ids.size());
      for (std::int64_t i = 0; i < length; ++i) {
        positions[static_cast<std::size_t>(i)] = all[static_cast<std::size_t>(i)] = i;
      }
      const SequenceLayout layout = model.decoder.layout(positions, {{{0, length}, {}}}, all);
      at::Tensor h = model.decoder.embed(at::tensor(ids, at::kLong));
      const at::Tensor coefficients =
          at::tensor(multipliers, at::kDouble).unsqueeze(1).expand({-1, length});
      for (std::int64_t block = 0; block < config.blocks; ++block) {
        h = steering.steer(model.decoder.run_blocks(h, {block, block + 1}, layout), block,
                           coefficients);
      }
      const auto first = static_cast<std::int64_t>(prompt.tokens.size());
      const at::Tensor likeliest = model.decoder.next_token_logits(h).argmax(1);
      for (std::size_t t = 0; t < text.tokens.size(); ++t) {
        EXPECT_EQ(likeliest[first - 1 + static_cast<std::int64_t>(t)].item<std::int64_t>(),
                  text.tokens[t]);
      }
    }
  }
}

class TensorParallel : public ::testing::TestWithParam<bool> {};

INSTANTIATE_TEST_SUITE_P(Generation, TensorParallel, ::testing::Bool());

TEST_P(TensorParallel, RanksGenerateTheSame) {
  const ModelConfig config = GetParam() ? tiny_recurrent_config() : tiny_config();
  const RandomWeights weights(config);
  const GenerationSettings settings = settings_for(kMultipliers);
  const auto vectors = two_layers();  // drawn here: threads share the generator
  const auto whole = Model(config).generate(vectors, settings);
  for (const int size : {2, 3}) {
    run_as_threads(size, [&](Communicator& tp) {
      Decoder decoder(config, weights, at::kDouble, at::kCPU, tp);
      decoder.load_embedding();
      decoder.load_blocks({0, config.blocks});
      const auto texts =
          generate_batch(decoder, SteeringVectors(vectors, decoder), prompts(), settings);
      for (std::size_t i = 0; i < texts.size(); ++i) {
        EXPECT_EQ(texts[i].tokens, whole[i].tokens);
        EXPECT_NEAR(texts[i].log_prob, whole[i].log_prob, 1e-4);
      }
    });
  }
}

TEST(Generation, ReplicasGatherAnswersInTheirOrder) {
  GeneratedText longest{{1, 2, 3}, -0.1234567890123, false};
  GeneratedText stopped{{7}, -2.5, true};
  GeneratedText empty{{}, 0, true};
  GenerationSettings settings = settings_for({{1}, {2}});
  settings.max_new_tokens = 3;
  run_as_threads(3, [&](Communicator& dp) {
    const std::vector<std::vector<PromptAnswers>> of_replica = {
        {{4, {longest, stopped}}, {1, {empty, longest}}}, {{2, {empty, empty}}}, {}};
    const auto all =
        gather_answers(of_replica[static_cast<std::size_t>(dp.rank())], settings, at::kCPU, dp);
    ASSERT_EQ(all.size(), 3U);
    EXPECT_EQ(all[0].number, 4);
    EXPECT_EQ(all[1].number, 1);
    EXPECT_EQ(all[2].number, 2);
    expect_same_bits(all[0].texts.at(0), longest);
    expect_same_bits(all[0].texts.at(1), stopped);
    expect_same_bits(all[1].texts.at(0), empty);
    expect_same_bits(all[1].texts.at(1), longest);
    expect_same_bits(all[2].texts.at(1), empty);
  });
}

struct Waiting {
  SteeredPositions positions;
  bool is_recurrent;
};

std::string name_of(const Waiting& waiting) {
  return std::string(waiting.is_recurrent ? "Recurrent" : "Attention") +
         (waiting.positions == SteeredPositions::kAll ? "All" : "Answer");
}

void PrintTo(const Waiting& waiting, std::ostream* out) {
  *out << name_of(waiting);
}

// A model whose texts end at different lengths, more prompts than are at work together, some of
// which begin alike; each text as it is alone, for any number of prompts at work.
class WaitingPrompts : public ::testing::TestWithParam<Waiting> {
 protected:
  WaitingPrompts() : model_(config(), at::kFloat), vectors_(two_layers(), model_.decoder) {
    settings_.positions = GetParam().positions;
    settings_.has_independent_rows = true;
    const auto endless = generate_batch(model_.decoder, vectors_, prompts_, settings_);
    settings_.stop_tokens = {endless[0].tokens[2], endless[7].tokens[4], endless[20].tokens[1]};
    if (GetParam().is_recurrent) {  // else nearly all prompts have a text that does not stop
      settings_.stop_tokens.insert(settings_.stop_tokens.end(),
                                   {endless[12].tokens[3], endless[26].tokens[2],
                                    endless[15].tokens[5], endless[31].tokens[4]});
    }
  }

  void SetUp() override {
    if (!model_.decoder.has_independent_cached_rows()) {
      GTEST_SKIP() << "this processor multiplies no tiles";
    }
  }

  static ModelConfig config() {
    ModelConfig config = GetParam().is_recurrent ? gated_recurrent_config() : tiny_config();
    config.attention_kinds.front().window = 5;
    config.context = 24;  // ends texts of the longest prompts
    return config;
  }

  static std::vector<NumberedPrompt> many_prompts() {
    std::vector<NumberedPrompt> prompts;
    for (std::int64_t p = 0; p < 11; ++p) {
      const TokenId number = static_cast<TokenId>(p);
      NumberedPrompt& prompt = prompts.emplace_back(NumberedPrompt{p, {1, 5, 9, 3, 7}});
      if (p % 4 == 3) {
        prompt.tokens = {2};  // begins unlike the others
      }
      for (std::int64_t i = 0; i < (7 * p) % 10; ++i) {
        prompt.tokens.push_back(static_cast<TokenId>(i + 3) % 30);
      }
      prompt.tokens.push_back(number + 4);
    }
    return prompts;
  }

  // The texts, each prompt and setting by itself.
  std::vector<GeneratedText> one_by_one() const {
    std::vector<GeneratedText> texts;
    for (const NumberedPrompt& prompt : prompts_) {
      for (const std::vector<double>& multipliers : kMultipliers) {
        GenerationSettings alone = settings_;
        alone.multipliers = {multipliers};
        alone.has_independent_rows = false;
        texts.push_back(generate_batch(model_.decoder, vectors_, {prompt}, alone).front());
      }
    }
    return texts;
  }

  Answered answer_at_once(std::int64_t at_once, const TextGenerator::OnToken& on_token) const {
    return answer(model_.decoder, vectors_, prompts_, settings_, at_once, on_token);
  }

  Model model_;
  SteeringVectors vectors_;
  std::vector<NumberedPrompt> prompts_ = many_prompts();
  GenerationSettings settings_ = settings_for(kMultipliers);
};

TEST_P(WaitingPrompts, HaveTheBitsOfATextAloneForAnyNumberAtWork) {
  const std::vector<GeneratedText> expected = one_by_one();
  EXPECT_GT(
      std::count_if(expected.begin(), expected.end(), [](auto& text) { return text.stopped; }), 5);
  for (const std::int64_t at_once : {1, 2, 3, 5, 11, 20}) {
    const Answered answered = answer_at_once(at_once, ignore_token);
    ASSERT_EQ(answered.texts.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      SCOPED_TRACE(::testing::Message() << "text " << i << ", " << at_once << " prompts at once");
      expect_same_bits(answered.texts[i], expected[i]);
    }
  }
}

// Three prompts at work: the fourth begins as soon as one of the first three is answered.
TEST_P(WaitingPrompts, BeginBeforeOthersAtWorkHaveEnded) {
  std::vector<std::int64_t> begun;
  std::map<std::int64_t, std::size_t> last_token;  // of a prompt, among all tokens
  std::map<std::int64_t, std::size_t> first_token;
  std::size_t tokens = 0;
  const Answered answered = answer_at_once(3, [&](std::int64_t prompt, std::int64_t, TokenId) {
    first_token.emplace(prompt, tokens);
    last_token[prompt] = tokens++;
  });
  std::int64_t overlapping = 0;  // prompts of one group of three that meet some of the next group
  for (const auto& [prompt, last] : last_token) {
    for (const auto& [other, first] : first_token) {
      overlapping += other / 3 > prompt / 3 && first < last ? 1 : 0;
    }
  }
  EXPECT_GT(overlapping, 0);
  // In fixed groups every group takes the steps of its longest text.
  GenerationSettings fixed = settings_;
  fixed.has_independent_rows = false;
  const Answered in_groups = answer(model_.decoder, vectors_, prompts_, fixed, 3);
  EXPECT_LT(answered.steps, in_groups.steps);
  EXPECT_FALSE(std::is_sorted(answered.numbers.begin(), answered.numbers.end()));
}

INSTANTIATE_TEST_SUITE_P(Generation, WaitingPrompts,
                         ::testing::Values(Waiting{SteeredPositions::kAll, false},
                                           Waiting{SteeredPositions::kAnswer, false},
                                           Waiting{SteeredPositions::kAll, true},
                                           Waiting{SteeredPositions::kAnswer, true}),
                         [](const auto& instance) { return name_of(instance.param); });

TEST(Generation, FixedGroupsHaveTheBitsOfABatchByItself) {
  const Model model(tiny_config(), at::kFloat);
  const SteeringVectors vectors(two_layers(), model.decoder);
  GenerationSettings settings = settings_for(kMultipliers);
  const auto endless = generate_batch(model.decoder, vectors, prompts(), settings);
  settings.stop_tokens = {endless[0].tokens[2]};
  std::vector<NumberedPrompt> six = prompts();
  for (NumberedPrompt& prompt : prompts()) {
    prompt.number += 3;
    prompt.tokens.push_back(6);
    six.push_back(prompt);
  }
  const Answered answered = answer(model.decoder, vectors, six, settings, 3);
  const auto first =
      generate_batch(model.decoder, vectors, {six.begin(), six.begin() + 3}, settings);
  const auto second =
      generate_batch(model.decoder, vectors, {six.begin() + 3, six.end()}, settings);
  for (std::size_t i = 0; i < 9; ++i) {
    expect_same_bits(answered.texts[i], first[i]);
    expect_same_bits(answered.texts[9 + i], second[i]);
  }
}

TEST(Generation, RowsGivenBackJoinTheirNeighbours) {
  RowPool pool(10, 3);
  const CacheRegion first = *pool.take(4);
  const CacheRegion second = *pool.take(3);
  const CacheRegion third = *pool.take(3);
  EXPECT_EQ(third.rows.end, 10);
  EXPECT_EQ(third.number, 2);
  EXPECT_FALSE(pool.take(1));
  pool.give_back(first);
  pool.give_back(third);
  EXPECT_FALSE(pool.take(5)) << "seven rows are free, but not side by side";
  pool.give_back(second);
  const CacheRegion all = *pool.take(10);
  EXPECT_EQ(all.rows.begin, 0);
  EXPECT_EQ(all.rows.end, 10);
  EXPECT_EQ(all.number, 0);
}

}  // namespace
}  // namespace bipo
