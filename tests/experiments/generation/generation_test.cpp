// Generation against a decoder that knows no cache: every token from the whole sequence anew.
#include "experiments/generation/generation.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
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

const GenerationHooks kNobody = {[](std::int64_t, std::int64_t, TokenId) {}, [] { return false; }};

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
    return *generate_batch(decoder, SteeringVectors(vectors, decoder), prompts(), settings,
                           kNobody);
  }

  ModelConfig config;
  RandomWeights weights;
  SelfCommunicator alone;
  Decoder decoder;
};

// What is added after each block to a sequence of `length` tokens of which `prompt` are the
// prompt's.
std::map<std::int64_t, at::Tensor> added(const std::vector<PlacedVector>& vectors,
                                         const std::vector<double>& multipliers,
                                         std::int64_t length, std::int64_t prompt,
                                         SteeredPositions positions) {
  const at::Tensor steered = at::ones({length, 1}, at::kDouble);
  if (positions == SteeredPositions::kAnswer) {
    steered.narrow(0, 0, prompt).zero_();
  }
  std::map<std::int64_t, at::Tensor> result;
  for (std::size_t m = 0; m < vectors.size(); ++m) {
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
    const at::Tensor log_probs = at::log_softmax(
        naive_logits(model.config, model.weights, ids,
                     added(vectors, multipliers, length, static_cast<std::int64_t>(prompt.size()),
                           settings.positions))[length - 1],
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

TEST(Generation, OfALaterBlockOnly) {
  const ModelConfig config = tiny_config();
  GenerationSettings settings = settings_for({{-3}, {3}});
  expect_naive(Model(config), {{config.blocks - 1, random_vector(20, 5)}}, settings, 1e-4);
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

TEST(Generation, StopsBetweenTokensWhereItIsAsked) {
  const Model model(tiny_config());
  int tokens = 0;
  int asked = 0;
  const GenerationHooks hooks = {[&](std::int64_t, std::int64_t, TokenId) { ++tokens; },
                                 [&] { return ++asked == 3; }};
  EXPECT_FALSE(generate_batch(model.decoder, SteeringVectors(two_layers(), model.decoder),
                              prompts(), settings_for(kMultipliers), hooks));
  EXPECT_EQ(tokens, 3 * 9);  // one of each text before every question
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
        h = steering.add(model.decoder.run_blocks(h, {block, block + 1}, layout), block,
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

TEST(Generation, TensorParallelRanksGenerateTheSame) {
  const ModelConfig config = tiny_config();
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
          *generate_batch(decoder, SteeringVectors(vectors, decoder), prompts(), settings, kNobody);
      for (std::size_t i = 0; i < texts.size(); ++i) {
        EXPECT_EQ(texts[i].tokens, whole[i].tokens);
        EXPECT_NEAR(texts[i].log_prob, whole[i].log_prob, 1e-4);
      }
    });
  }
}

TEST(Generation, ReplicasGatherTextsInTheirOrder) {
  GeneratedText longest{{1, 2, 3}, -0.1234567890123, false};
  GeneratedText stopped{{7}, -2.5, true};
  GeneratedText empty{{}, 0, true};
  run_as_threads(3, [&](Communicator& dp) {
    const std::vector<std::vector<GeneratedText>> of_replica = {{longest, stopped}, {empty}, {}};
    const auto all = gather_texts(of_replica[static_cast<std::size_t>(dp.rank())], 3, at::kCPU, dp);
    ASSERT_EQ(all.size(), 3U);
    expect_same_bits(all[0], longest);
    expect_same_bits(all[1], stopped);
    expect_same_bits(all[2], empty);
  });
}

}  // namespace
}  // namespace bipo
