// The decoder against a naive float64 implementation, sequence by sequence, and its shards against
// the whole.
#include "trainer/model/decoder/decoder.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <ostream>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "collectives/self_communicator.hpp"
#include "tests/support/naive_decoder.hpp"
#include "tests/support/thread_communicator.hpp"
#include "tests/support/tiny_model.hpp"
#include "trainer/model/operators/cpu_products.hpp"
#include "trainer/passes/pair_scores.hpp"

namespace bipo {
namespace {

using testing::naive_log_probs;
using testing::RandomWeights;
using testing::tiny_config;
using testing::tiny_pairs;
using testing::tiny_recurrent_config;

constexpr std::int64_t kLayer = 0;

// With attention in every block, and with a recurrence in some.
std::vector<ModelConfig> both_kinds() {
  return {tiny_config(), tiny_recurrent_config()};
}

double naive_answer(const ModelConfig& config, const RandomWeights& weights, const TokenPair& pair,
                    const std::vector<TokenId>& answer, const at::Tensor& added) {
  std::vector<std::int64_t> ids(pair.prompt.begin(), pair.prompt.end());
  ids.insert(ids.end(), answer.begin(), answer.end());
  const at::Tensor log_probs = naive_log_probs(config, weights, ids, {{kLayer, added}});
  double sum = 0;
  for (std::size_t i = pair.prompt.size(); i < ids.size(); ++i) {
    sum += log_probs[static_cast<std::int64_t>(i) - 1][ids[i]].item<double>();
  }
  return sum;
}

struct Result {
  std::vector<AnswerLogProbs> answers;
  at::Tensor gradient;  // of sum_p weight_p (chosen_p - 2 rejected_p)
};

// The tiny pairs; those with equal signs are steered alike and may share what they begin with.
std::vector<PackItem> steered_alike(const std::vector<double>& signs) {
  std::vector<PackItem> items;
  for (std::size_t pair = 0; pair < signs.size(); ++pair) {
    const auto first = std::find(signs.begin(), signs.end(), signs[pair]) - signs.begin();
    items.push_back({static_cast<std::int64_t>(pair), first});
  }
  return items;
}

// All tiny pairs in one packed batch, through this rank's shard.
Result run_packed(const ModelConfig& config, const RandomWeights& weights, const at::Tensor& vector,
                  const std::vector<double>& signs, Communicator& tp,
                  at::ScalarType type = at::kDouble) {
  Decoder decoder(config, weights, type, at::kCPU, tp);
  decoder.load_embedding();
  decoder.load_blocks({0, config.blocks});
  const auto pairs = tiny_pairs();
  const PackedPairs packed = pack_pairs(pairs, steered_alike(signs), decoder);
  std::vector<double> coefficients;
  for (const std::int64_t pair : packed.pair_of_token) {
    coefficients.push_back(signs[static_cast<std::size_t>(pair)]);
  }
  const at::Tensor leaf =
      vector.to(decoder.residual_type()).unsqueeze(0).clone().set_requires_grad(true);
  const Steering steering{
      kLayer, at::tensor(coefficients, at::kDouble).to(decoder.residual_type()).unsqueeze(0), leaf};
  const PairScores scores =
      score_pairs(decoder, packed, run_prefix(decoder, packed, kLayer), steering);
  std::vector<double> upstream;
  for (const std::int64_t answer : packed.answer_of_target) {
    upstream.push_back((1 + static_cast<double>(answer / 2)) * (answer % 2 == 0 ? 1.0 : -2.0));
  }
  scores.target_log_probs.backward(at::tensor(upstream, at::kDouble).to(decoder.residual_type()));
  return {scores.answers, leaf.grad().to(at::kDouble).squeeze(0)};
}

double objective(const std::vector<AnswerLogProbs>& answers) {
  double sum = 0;
  for (std::size_t p = 0; p < answers.size(); ++p) {
    sum += (1 + static_cast<double>(p)) * (answers[p].chosen - 2 * answers[p].rejected);
  }
  return sum;
}

at::Tensor probe_vector(const ModelConfig& config) {
  at::manual_seed(3);
  return at::randn({config.hidden}, at::kDouble) * 0.3;
}

const char* kind_of(const ModelConfig& config) {
  return config.delta_net ? "Recurrent" : "Attention";
}

}  // namespace

// In the namespace of the type, where GoogleTest looks for it.
static void PrintTo(const ModelConfig& config, std::ostream* out) {
  *out << kind_of(config);
}

namespace {

class BothKinds : public ::testing::TestWithParam<ModelConfig> {};

INSTANTIATE_TEST_SUITE_P(Decoder, BothKinds, ::testing::ValuesIn(both_kinds()),
                         [](const auto& instance) { return kind_of(instance.param); });

TEST_P(BothKinds, PackedPairsEqualSeparateSequences) {
  for (const bool tied : {false, true}) {
    ModelConfig config = GetParam();
    config.tied_head = tied;
    const RandomWeights weights(config);
    const at::Tensor v = probe_vector(config);
    // Each by itself; in two trees of shared prompts.
    for (const std::vector<double>& signs :
         {std::vector<double>{1, -1, 0.5, 0}, std::vector<double>{1, -1, -1, 1}}) {
      SelfCommunicator self;
      const Result packed = run_packed(config, weights, v, signs, self);
      const auto pairs = tiny_pairs();
      for (std::size_t p = 0; p < pairs.size(); ++p) {
        const at::Tensor added = v * signs[p];
        EXPECT_NEAR(packed.answers[p].chosen,
                    naive_answer(config, weights, pairs[p], pairs[p].chosen, added), 1e-6)
            << p;
        EXPECT_NEAR(packed.answers[p].rejected,
                    naive_answer(config, weights, pairs[p], pairs[p].rejected, added), 1e-6)
            << p;
      }
    }
  }
}

TEST(Decoder, RotaryFrequenciesAreDividedOneByOne) {
  ModelConfig config = tiny_config();
  config.rotary.front().divisors = {1.5F, 4.0F};
  const RandomWeights weights(config);
  const at::Tensor v = probe_vector(config);
  SelfCommunicator self;
  const Result packed = run_packed(config, weights, v, {1, -1, 0.5, 0}, self);
  const TokenPair pair = tiny_pairs().front();
  EXPECT_NEAR(packed.answers[0].chosen, naive_answer(config, weights, pair, pair.chosen, v), 1e-6);
  // It matters: the plain model says something else.
  EXPECT_GT(std::abs(naive_answer(tiny_config(), weights, pair, pair.chosen, v) -
                     packed.answers[0].chosen),
            1e-3);
}

TEST(Decoder, SharedPromptsArePackedOnce) {
  const ModelConfig config = tiny_config();
  const RandomWeights weights(config);
  SelfCommunicator self;
  const Decoder decoder(config, weights, at::kDouble, at::kCPU, self);
  // By themselves the pairs take 7, 6, 8 and 8 tokens; prompts of 4 and 2 are shared.
  const auto rows = [&](const std::vector<PackItem>& items) {
    return pack_pairs(tiny_pairs(), items, decoder).tokens();
  };
  EXPECT_EQ(rows({{0, 0}, {1, 1}, {2, 2}, {3, 3}}), 29);
  EXPECT_EQ(rows({{0, 5}, {1, 2}, {2, 2}, {3, 5}}), 29 - 4 - 2);
}

TEST_P(BothKinds, GradientEqualsCentralDifferences) {
  const ModelConfig& config = GetParam();
  const RandomWeights weights(config);
  const at::Tensor v = probe_vector(config);
  const std::vector<double> signs = {1, -1, -1, 1};
  SelfCommunicator self;
  const at::Tensor gradient = run_packed(config, weights, v, signs, self).gradient;
  constexpr double kStep = 1e-5;
  for (std::int64_t i = 0; i < config.hidden; ++i) {
    at::Tensor up = v.clone();
    at::Tensor down = v.clone();
    up[i] += kStep;
    down[i] -= kStep;
    const double slope = (objective(run_packed(config, weights, up, signs, self).answers) -
                          objective(run_packed(config, weights, down, signs, self).answers)) /
                         (2 * kStep);
    EXPECT_NEAR(gradient[i].item<double>(), slope, 1e-6 * std::max(1.0, std::abs(slope))) << i;
  }
}

TEST_P(BothKinds, ShardsOfAnySizeEqualTheWhole) {
  const ModelConfig& config = GetParam();
  const RandomWeights weights(config);
  const at::Tensor v = probe_vector(config);
  const std::vector<double> signs = {1, -1, -1, 1};
  SelfCommunicator self;
  const Result whole = run_packed(config, weights, v, signs, self);
  for (const int tp : {2, 3, 4, 5, 6}) {
    run_as_threads(tp, [&](Communicator& group) {
      const Result shard = run_packed(config, weights, v, signs, group);
      for (std::size_t p = 0; p < whole.answers.size(); ++p) {
        EXPECT_NEAR(shard.answers[p].chosen, whole.answers[p].chosen, 1e-11) << "tp " << tp;
        EXPECT_NEAR(shard.answers[p].rejected, whole.answers[p].rejected, 1e-11) << "tp " << tp;
      }
      // Complete on every rank, not a part of it.
      EXPECT_LT((shard.gradient - whole.gradient).abs().max().item<double>(), 1e-10) << "tp " << tp;
    });
  }
}

TEST_P(BothKinds, Float32StaysWithinItsRoundingOfFloat64) {
  const ModelConfig& config = GetParam();
  const RandomWeights weights(config);
  const at::Tensor v = probe_vector(config);
  const std::vector<double> signs = {1, -1, -1, 1};
  SelfCommunicator self;
  const Result exact = run_packed(config, weights, v, signs, self);
  const Result single = run_packed(config, weights, v, signs, self, at::kFloat);
  // Sums of length ~20 over 3 blocks: some tens of float32 epsilons relative.
  constexpr double kRelative = 100 * 1.2e-7;
  for (std::size_t p = 0; p < exact.answers.size(); ++p) {
    EXPECT_NEAR(single.answers[p].chosen, exact.answers[p].chosen,
                kRelative * std::abs(exact.answers[p].chosen));
  }
  EXPECT_LT((single.gradient - exact.gradient).norm().item<double>(),
            kRelative * exact.gradient.norm().item<double>());
}

TEST_P(BothKinds, FusedLoopsEqualTensorOperations) {
  ModelConfig config = GetParam();
  config.head_size = 16;
  const RandomWeights weights(config);
  SelfCommunicator self;
  Decoder fused(config, weights, at::kFloat, at::kCPU, self);
  Decoder composed(config, weights, at::kDouble, at::kCPU, self);
  // A prompt longer than the rows that attention works on at one time.
  TokenPair pair{{}, {3, 4, 5}, {6, 7}, "long:1"};
  for (int i = 0; i < 300; ++i) {
    pair.prompt.push_back(i * 7 % 37);
  }
  std::vector<Result> results;
  for (Decoder* decoder : {&composed, &fused}) {
    decoder->load_embedding();
    decoder->load_blocks({0, config.blocks});
    const PackedPairs packed = pack_alike({pair}, {0}, *decoder);
    const at::Tensor leaf = (probe_vector(config) * 0.1)
                                .to(decoder->residual_type())
                                .unsqueeze(0)
                                .set_requires_grad(true);
    const at::Tensor ones = at::ones({1, packed.tokens()}, leaf.options().requires_grad(false));
    const PairScores scores =
        score_pairs(*decoder, packed, run_prefix(*decoder, packed, kLayer), {kLayer, ones, leaf});
    scores.target_log_probs.sum().backward();
    results.push_back({scores.answers, leaf.grad().to(at::kDouble)});
  }
  // Sums of up to 305 terms over 3 blocks in float32.
  EXPECT_NEAR(results[1].answers[0].chosen, results[0].answers[0].chosen, 1e-4);
  EXPECT_NEAR(results[1].answers[0].rejected, results[0].answers[0].rejected, 1e-4);
  EXPECT_LT((results[1].gradient - results[0].gradient).norm().item<double>(),
            1e-4 * results[0].gradient.norm().item<double>());
}

// Three pairs whose prompts begin alike, together and each by itself.
TEST(Decoder, RowsAreIndependentWhereItSaysSo) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    ModelConfig config = tiny_config();
    config.intermediate += config.intermediate % 2;  // bfloat16 tiles need pairs of columns
    const RandomWeights weights(config);
    SelfCommunicator tp;
    Decoder decoder(config, weights, type, at::kCPU, tp);
    ASSERT_EQ(decoder.has_independent_rows(), multiplies_in_tiles(type, at::kCPU));
    if (!decoder.has_independent_rows()) {
      continue;
    }
    decoder.load_embedding();
    decoder.load_blocks({0, config.blocks});
    const auto pairs = tiny_pairs();
    std::vector<std::int64_t> all(pairs.size());
    std::iota(all.begin(), all.end(), 0);
    const at::NoGradGuard no_grad;
    const auto outcome = [&](const PackedPairs& packed) {
      const at::Tensor hidden = run_prefix(decoder, packed, kLayer);
      const Steering steering{kLayer, at::ones({1, packed.tokens()}),
                              probe_vector(config).to(at::kFloat).unsqueeze(0)};
      return std::pair(hidden, score_pairs(decoder, packed, hidden, steering).answers);
    };
    const PackedPairs together = pack_alike(pairs, all, decoder);
    const auto [hidden, answers] = outcome(together);
    const auto rows = rows_of_pairs(together, all);
    for (const std::int64_t pair : all) {
      const auto index = static_cast<std::size_t>(pair);
      const auto [own_hidden, own_answers] = outcome(pack_alike(pairs, {pair}, decoder));
      ASSERT_EQ(static_cast<std::int64_t>(rows[index].size()), own_hidden.size(0));
      EXPECT_TRUE(
          at::equal(hidden.index_select(0, at::tensor(rows[index], at::kLong)), own_hidden));
      EXPECT_EQ(answers[index].chosen, own_answers.front().chosen);
      EXPECT_EQ(answers[index].rejected, own_answers.front().rejected);
    }
  }
}

TEST(PackedSizes, AreThoseOfThePairsPackedAlone) {
  const std::vector<TokenPair> pairs = tiny_pairs();
  // Prompt and both answers, without the answers' last tokens.
  EXPECT_EQ(packed_sizes(pairs), (std::vector<std::int64_t>{7, 6, 8, 8}));
  const ModelConfig config = tiny_config();
  const RandomWeights weights(config);
  SelfCommunicator self;
  const Decoder decoder(config, weights, at::kFloat, at::kCPU, self);
  for (std::size_t p = 0; p < pairs.size(); ++p) {
    const PackedPairs packed = pack_alike(pairs, {static_cast<std::int64_t>(p)}, decoder);
    EXPECT_EQ(packed.tokens(), packed_size(pairs[p]));
  }
}

TEST(Decoder, HoldsOnlyWhatIsLoaded) {
  for (const bool tied : {false, true}) {
    ModelConfig config = tiny_config();
    config.tied_head = tied;
    const RandomWeights weights(config);
    SelfCommunicator self;
    Decoder decoder(config, weights, at::kFloat, at::kCPU, self);
    const auto expected = [&](std::int64_t blocks, bool embedding) {
      return Decoder::weight_bytes(config, 1, 0, at::kFloat, at::kCPU, {0, blocks}, embedding) +
             20 * sizeof(float);  // the final norm
    };
    EXPECT_EQ(decoder.loaded_bytes(), expected(0, false));
    decoder.load_embedding();
    decoder.load_blocks({1, 3});
    EXPECT_EQ(decoder.loaded_bytes(), expected(2, true));
    decoder.release_embedding();
    decoder.release_blocks({0, 2});
    EXPECT_EQ(decoder.loaded_bytes(), expected(1, false));
    // 37 x 20 head; 2 norms of 20, (24 + 2 * 8) x 20 and 20 x 24 in attention, 3 of 23 x 20.
    EXPECT_EQ(expected(1, false), 4U * (37 * 20 + 20 + 2 * 20 + 40 * 20 + 20 * 24 + 3 * 23 * 20));
    EXPECT_THROW(run_prefix(decoder, pack_alike(tiny_pairs(), {0}, decoder), 0), BugError);
  }
}

TEST(Decoder, BFloat16ProductsStayWithinTheirs) {
  const ModelConfig config = tiny_config();
  const RandomWeights weights(config);
  const at::Tensor v = probe_vector(config);
  SelfCommunicator self;
  const Result exact = run_packed(config, weights, v, {1, -1, -1, 1}, self);
  const Result half = run_packed(config, weights, v, {1, -1, -1, 1}, self, at::kBFloat16);
  // bfloat16 keeps 8 bits; some ten roundings in a row, of both signs.
  EXPECT_LT((half.gradient - exact.gradient).norm().item<double>(),
            10 * std::ldexp(1.0, -8) * exact.gradient.norm().item<double>());
}

TEST(Decoder, Llama3ScalingChangesLongWavelengthsOnly) {
  ModelConfig config = tiny_config();
  config.head_size = 4;  // wavelengths 2 pi and 2 pi * 10 at theta 100
  config.rotary.front().scaling = Llama3RopeScaling{8, 1, 4, 32};
  const RandomWeights weights(config);
  SelfCommunicator self;
  const Decoder decoder(config, weights, at::kDouble, at::kCPU, self);
  const SequenceLayout layout = decoder.layout({0, 3}, {{{0, 2}, {}}}, {1});
  // 2 pi < 32 / 4: kept.  20 pi > 32 / 1: divided by 8.
  EXPECT_NEAR(layout.kinds[0].all->cos[1][0].item<double>(), std::cos(3.0), 1e-6);
  EXPECT_NEAR(layout.kinds[0].all->cos[1][1].item<double>(), std::cos(3.0 / 10 / 8), 1e-6);
  config.rotary.front().scaling = Llama3RopeScaling{8, 1, 4, 100};
  const Decoder between(config, weights, at::kDouble, at::kCPU, self);
  // 100 / (20 pi) = 1.5915 lies between 1 and 4: blend (1.5915 - 1) / 3.
  const double blend = (100 / (20 * M_PI) - 1) / 3;
  EXPECT_NEAR(between.layout({0, 3}, {{{0, 2}, {}}}, {1}).kinds[0].all->cos[1][1].item<double>(),
              std::cos(3.0 / 10 * ((1 - blend) / 8 + blend)), 1e-6);
}

TEST(Sharding, RangesTileAndKvHeadsCoverTheirQueries) {
  const ModelConfig config = tiny_config();
  for (std::int64_t tp = 1; tp <= config.heads; ++tp) {
    std::int64_t next_head = 0;
    std::int64_t next_column = 0;
    std::int64_t next_row = 0;
    for (std::int64_t rank = 0; rank < tp; ++rank) {
      const ShardPlan plan = plan_shard(config, tp, rank);
      EXPECT_EQ(plan.heads.begin, next_head);
      EXPECT_EQ(plan.intermediate.begin, next_column);
      EXPECT_EQ(plan.vocabulary.begin, next_row);
      const Range kv_heads = kv_part(config, plan, attention_of(config, 0));
      EXPECT_EQ(kv_heads.begin, plan.heads.begin / 3);
      EXPECT_EQ(kv_heads.end, (plan.heads.end + 2) / 3);
      next_head = plan.heads.end;
      next_column = plan.intermediate.end;
      next_row = plan.vocabulary.end;
    }
    EXPECT_EQ(next_head, config.heads);
    EXPECT_EQ(next_column, config.intermediate);
    EXPECT_EQ(next_row, config.vocabulary);
  }
  EXPECT_THROW(plan_shard(config, config.heads + 1, 0), UserError);
}

}  // namespace
}  // namespace bipo
