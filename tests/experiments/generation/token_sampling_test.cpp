// Which token follows: counted against the probabilities that the settings leave.
#include "experiments/generation/token_sampling.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

// Probabilities 0.4, 0.3, 0.2, 0.1 in another order of ids.
const std::vector<float> kLogits = {std::log(0.2F), std::log(0.4F), std::log(0.1F), std::log(0.3F)};

SamplingSettings sampling(double temperature, std::int64_t top_k = 0, double top_p = 1) {
  return {temperature, top_k, top_p, 11};
}

std::map<TokenId, double> shares(const SamplingSettings& settings) {
  constexpr std::uint32_t kDraws = 20000;
  std::map<TokenId, double> counts;
  for (std::uint32_t draw = 0; draw < kDraws; ++draw) {
    counts[sample_token(kLogits, settings, {draw % 100, draw / 100 % 10, draw / 1000})] +=
        1.0 / kDraws;
  }
  return counts;
}

// Five standard deviations of a share of 20,000 draws.
constexpr double kTolerance = 5 * 0.5 / 141.4;

void expect_shares(const SamplingSettings& settings, const std::map<TokenId, double>& expected) {
  const auto drawn = shares(settings);
  ASSERT_EQ(drawn.size(), expected.size());
  for (const auto& [token, share] : expected) {
    EXPECT_NEAR(drawn.at(token), share, kTolerance) << "token " << token;
  }
}

TEST(TokenSampling, GreedyTakesTheLikeliest) {
  EXPECT_EQ(sample_token(kLogits, sampling(0), {}), 1);
}

TEST(TokenSampling, OfEquallyLikelyOnesTheLowestId) {
  EXPECT_EQ(sample_token(std::vector<float>{1, 3, 3, 2}, sampling(0), {}), 1);
  EXPECT_EQ(sample_token(std::vector<float>{1, 3, 3, 2}, sampling(1, 1), {}), 1);
}

TEST(TokenSampling, FollowsTheProbabilities) {
  expect_shares(sampling(1), {{0, 0.2}, {1, 0.4}, {2, 0.1}, {3, 0.3}});
}

// At temperature 1/2 probabilities go by their squares: 4, 16, 1, 9 thirtieths.
TEST(TokenSampling, TemperatureSharpens) {
  expect_shares(sampling(0.5), {{0, 4 / 30.0}, {1, 16 / 30.0}, {2, 1 / 30.0}, {3, 9 / 30.0}});
}

TEST(TokenSampling, TopKKeepsTheLikeliest) {
  expect_shares(sampling(1, 2), {{1, 4 / 7.0}, {3, 3 / 7.0}});
}

// 0.4 + 0.3 do not reach 0.75, with 0.2 they do.
TEST(TokenSampling, TopPKeepsTheFewestThatReachIt) {
  expect_shares(sampling(1, 0, 0.75), {{0, 2 / 9.0}, {1, 4 / 9.0}, {3, 3 / 9.0}});
  expect_shares(sampling(1, 0, 0.01), {{1, 1.0}});
}

// As in transformers, what top_k leaves is normalised before top_p: 4/7 reach a half alone.
TEST(TokenSampling, TopPCountsWithinTopK) {
  expect_shares(sampling(1, 2, 0.5), {{1, 1.0}});
}

TEST(TokenSampling, DrawsBelongToTheirPlaceAndSeed) {
  SamplingSettings other = sampling(1);
  other.seed = 12;
  int differing_seed = 0;
  int differing_step = 0;
  for (std::uint32_t prompt = 0; prompt < 100; ++prompt) {
    const DrawPlace place{prompt, 1, 5};
    const TokenId token = sample_token(kLogits, sampling(1), place);
    EXPECT_EQ(sample_token(kLogits, sampling(1), place), token);
    differing_seed += sample_token(kLogits, other, place) != token ? 1 : 0;
    differing_step += sample_token(kLogits, sampling(1), {prompt, 1, 6}) != token ? 1 : 0;
  }
  EXPECT_GT(differing_seed, 40);
  EXPECT_GT(differing_step, 40);
}

TEST(TokenSampling, LogitsOutOfRangeAreAnError) {
  EXPECT_THROW(
      sample_token(std::vector<float>{1, std::numeric_limits<float>::infinity()}, sampling(1), {}),
      EnvironmentError);
  EXPECT_THROW(
      sample_token(std::vector<float>{1, std::numeric_limits<float>::quiet_NaN()}, sampling(0), {}),
      EnvironmentError);
}

}  // namespace
}  // namespace bipo
