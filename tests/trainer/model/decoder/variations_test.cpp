// Every variation of the decoder's graph: several vectors in one pass against one after the other,
// and the gradient in bfloat16 against that in float64.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <ostream>
#include <string>
#include <vector>

#include "collectives/self_communicator.hpp"
#include "tests/support/model_variations.hpp"
#include "tests/support/thread_communicator.hpp"
#include "trainer/model/decoder/decoder.hpp"
#include "trainer/passes/pair_scores.hpp"

namespace bipo {
namespace {

using testing::RandomWeights;
using testing::tiny_pairs;

constexpr std::int64_t kLayer = 0;

struct Variation {
  const char* name;
  ModelConfig config;
};

void PrintTo(const Variation& variation, std::ostream* out) {
  *out << variation.name;
}

std::vector<Variation> variations() {
  return {{"Llama", testing::llama_config()},   {"Gemma", testing::gemma_config()},
          {"Qwen", testing::qwen_config()},     {"Gemma4", testing::gemma4_config()},
          {"Cohere", testing::cohere_config()}, {"Neox", testing::neox_config()},
          {"Olmo", testing::olmo_config()},     {"Glm", testing::glm_config()},
          {"Scaled", testing::scaled_config()}, {"Recurrent", testing::recurrent_config()}};
}

class Variations : public ::testing::TestWithParam<Variation> {
 protected:
  void SetUp() override { at::set_num_threads(1); }
};

INSTANTIATE_TEST_SUITE_P(Decoder, Variations, ::testing::ValuesIn(variations()),
                         [](const auto& instance) { return std::string(instance.param.name); });

// Weights that bfloat16 holds, so that all types have the same; matrices are `gain` times as large.
class RoundedWeights final : public WeightSource {
 public:
  RoundedWeights(const ModelConfig& config, std::uint64_t seed, double gain)
      : weights_(config, seed), gain_(gain) {}

  at::Tensor read(Role role, std::int64_t block, const Slice& slice) const override {
    const at::Tensor weight = weights_.read(role, block, slice);
    return (weight.dim() == 1 ? weight : weight * gain_).to(at::kBFloat16).to(at::kDouble);
  }
  std::string place(Role role, std::int64_t block) const override {
    return weights_.place(role, block);
  }
  std::uint64_t fingerprint() const override { return weights_.fingerprint(); }

 private:
  RandomWeights weights_;
  double gain_;
};

struct Result {
  std::vector<AnswerLogProbs> answers;  // vector by vector, pair by pair
  at::Tensor gradients;                 // [M, D] of a weighted sum of the answers, float64
};

// All tiny pairs under each of the vectors [M, D], which are added with the signs, in one pass.
Result run_pass(const ModelConfig& config, const WeightSource& weights, const at::Tensor& vectors,
                const std::vector<std::int64_t>& signs, at::ScalarType type, Communicator& tp) {
  Decoder decoder(config, weights, type, at::kCPU, tp);
  decoder.load_embedding();
  decoder.load_blocks({0, config.blocks});
  const std::vector<TokenPair> pairs = tiny_pairs();
  std::vector<PackItem> items;
  for (std::size_t m = 0; m < signs.size(); ++m) {
    for (std::size_t pair = 0; pair < pairs.size(); ++pair) {
      items.push_back({static_cast<std::int64_t>(pair), {static_cast<std::int64_t>(m), signs[m]}});
    }
  }
  const PackedPairs packed = pack_pairs(pairs, items, decoder);
  const at::Tensor coefficients = at::zeros({vectors.size(0), packed.tokens()}, at::kDouble);
  for (std::int64_t t = 0; t < packed.tokens(); ++t) {
    const SteeringChoice& choice = packed.steering_of_token[static_cast<std::size_t>(t)];
    coefficients[choice.vector][t] = static_cast<double>(choice.sign);
  }
  const at::Tensor leaf = vectors.to(decoder.residual_type()).clone().set_requires_grad(true);
  const PairScores scores = score_pairs(decoder, packed, run_prefix(decoder, packed, kLayer),
                                        {kLayer, coefficients.to(decoder.residual_type()), leaf});
  std::vector<double> upstream;
  for (const std::int64_t answer : packed.answer_of_target) {
    const auto pair = static_cast<std::size_t>(answer / 2) % pairs.size();
    upstream.push_back((1 + static_cast<double>(pair)) * (answer % 2 == 0 ? 1.0 : -2.0));
  }
  scores.target_log_probs.backward(at::tensor(upstream, at::kDouble).to(decoder.residual_type()));
  return {scores.answers, leaf.grad().to(at::kDouble)};
}

at::Tensor random_vectors(std::int64_t count, const ModelConfig& config, std::uint64_t seed) {
  at::manual_seed(seed);
  return at::randn({count, config.hidden}, at::kDouble) * 0.3;
}

double length_of(const at::Tensor& x) {
  return x.norm().item<double>();
}

TEST_P(Variations, VectorsOfOnePassAreAsByThemselves) {
  const ModelConfig& config = GetParam().config;
  const RandomWeights weights(config);
  const std::vector<std::int64_t> signs = {1, -1, 1};
  const at::Tensor vectors = random_vectors(3, config, 3);
  // In float32 sums of some twenty terms over three blocks and back.
  for (const auto& [type, tolerance] :
       {std::pair(at::kDouble, 1e-12), std::pair(at::kFloat, 200 * 0x1p-24)}) {
    SelfCommunicator self;
    std::vector<Result> alone;
    for (std::size_t m = 0; m < signs.size(); ++m) {
      alone.push_back(run_pass(config, weights, vectors.narrow(0, static_cast<std::int64_t>(m), 1),
                               {signs[m]}, type, self));
    }
    const auto expect_alone = [&](const Result& together, const std::string& where) {
      for (std::size_t m = 0; m < signs.size(); ++m) {
        const std::size_t pairs = alone[m].answers.size();
        for (std::size_t p = 0; p < pairs; ++p) {
          const AnswerLogProbs& found = together.answers.at(m * pairs + p);
          const AnswerLogProbs& expected = alone[m].answers[p];
          EXPECT_NEAR(found.chosen, expected.chosen, tolerance * std::abs(expected.chosen))
              << where;
          EXPECT_NEAR(found.rejected, expected.rejected, tolerance * std::abs(expected.rejected))
              << where;
        }
        const at::Tensor expected = alone[m].gradients[0];
        EXPECT_LT(length_of(together.gradients[static_cast<std::int64_t>(m)] - expected),
                  tolerance * length_of(expected))
            << where;
      }
    };
    expect_alone(run_pass(config, weights, vectors, signs, type, self), "one rank");
    run_as_threads(2, [&, of_type = type](Communicator& tp) {
      expect_alone(run_pass(config, weights, vectors, signs, of_type, tp), "two ranks");
    });
    // They are not all the same.
    EXPECT_GT(length_of(alone[0].gradients - alone[2].gradients),
              1e-3 * length_of(alone[0].gradients));
  }
}

// Half the distance between a bfloat16 number and the next.
constexpr double kRoundoff = 0x1p-8;

// Returns the root mean square, over some draws, of the gradient's distance from float64's in
// roundoffs.
double bfloat16_error(const ModelConfig& config, double gain) {
  constexpr int kDraws = 6;
  double squares = 0;
  for (std::uint64_t seed = 1; seed <= kDraws; ++seed) {
    const RoundedWeights weights(config, seed, gain);
    const at::Tensor vector = random_vectors(1, config, seed);
    SelfCommunicator self;
    const at::Tensor exact = run_pass(config, weights, vector, {1}, at::kDouble, self).gradients;
    const at::Tensor found = run_pass(config, weights, vector, {1}, at::kBFloat16, self).gradients;
    squares += std::pow(length_of(found - exact) / length_of(exact) / kRoundoff, 2) / kDraws;
  }
  return std::sqrt(squares);
}

// Inputs of products are rounded, some 25 times between vector and loss and back, with signs that
// know nothing of each other.  Weights are small and no norm divides by next to nothing, as that of
// a recurrence does where a key and a query are nearly orthogonal: with an epsilon of 1e-5 and
// weights twice as large, the recurrent model answers a rounding with some two hundred.
TEST_P(Variations, BFloat16GradientIsAFewRoundoffsFromFloat64) {
  ModelConfig config = GetParam().config;
  config.norm_epsilon = 0.1;
  const double error = bfloat16_error(config, 0.5);
  std::printf("%s: %.1f roundoffs of bfloat16\n", GetParam().name, error);
  EXPECT_LT(error, 3);
}

}  // namespace
}  // namespace bipo
