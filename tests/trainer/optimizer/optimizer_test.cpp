#include "trainer/optimizer/optimizer.hpp"
#include "trainer/records/records.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace bipo {
namespace {

TEST(AdamW, FirstStepMovesByTheLearningRate) {
  // Bias correction makes m/sqrt(v) the gradient's sign at the first step.
  std::vector<float> vector = {0, 0, 1};
  std::vector<float> m(3);
  std::vector<float> v(3);
  AdamW{}.update(vector, m, v, {0.5, -3, 0}, 0.01, 0);
  EXPECT_NEAR(vector[0], -0.01, 1e-8);
  EXPECT_NEAR(vector[1], 0.01, 1e-8);
  EXPECT_EQ(vector[2], 1);
  EXPECT_FLOAT_EQ(m[0], 0.05F);
  EXPECT_FLOAT_EQ(v[1], 0.009F);
}

TEST(AdamW, SecondStepEqualsTheFormulaByHand) {
  std::vector<float> vector = {2};
  std::vector<float> m = {0};
  std::vector<float> v = {0};
  AdamW optimizer;
  optimizer.weight_decay = 0.05;
  optimizer.update(vector, m, v, {1}, 0.1, 0);
  EXPECT_NEAR(vector[0], 2 * (1 - 0.1 * 0.05) - 0.1, 1e-6);
  optimizer.update(vector, m, v, {-2}, 0.1, 1);
  const double m2 = (0.9 * 0.1 + 0.1 * -2) / (1 - 0.81);
  const double v2 = (0.999 * 0.001 + 0.001 * 4) / (1 - 0.999 * 0.999);
  EXPECT_NEAR(vector[0], 1.89 * (1 - 0.005) - 0.1 * m2 / (std::sqrt(v2) + 1e-8), 1e-6);
}

TEST(Schedule, EqualsTransformersCosineWithWarmup) {
  // get_cosine_schedule_with_warmup(num_warmup_steps=4, num_training_steps=12), factors of steps
  // 0..12.
  const double expected[] = {0,
                             0.25,
                             0.5,
                             0.75,
                             1,
                             0.961939766255643,
                             0.853553390593274,
                             0.691341716182545,
                             0.5,
                             0.308658283817455,
                             0.146446609406726,
                             0.0380602337443566,
                             0};
  for (int step = 0; step <= 12; ++step) {
    EXPECT_NEAR(schedule_factor(Schedule::kCosine, step, 4, 12), expected[step], 1e-12) << step;
  }
  EXPECT_DOUBLE_EQ(schedule_factor(Schedule::kCosine, 0, 0, 10), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(Schedule::kCosine, 3, 100, 10), 0.03);
}

TEST(Schedule, EqualsTransformersLineAndConstant) {
  // get_linear_schedule_with_warmup(4, 12) and get_constant_schedule_with_warmup(4).
  const double line[] = {0, 0.25, 0.5, 0.75, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0};
  for (int step = 0; step <= 12; ++step) {
    EXPECT_DOUBLE_EQ(schedule_factor(Schedule::kLinear, step, 4, 12), line[step]) << step;
    EXPECT_DOUBLE_EQ(schedule_factor(Schedule::kConstant, step, 4, 12), std::min(step / 4.0, 1.0));
  }
}

TEST(NormControl, ScalesAsItsRuleSays) {
  const auto controlled = [](NormRule rule, double norm, std::vector<float> vector) {
    NormControl{rule, norm}.apply(vector);
    return vector;
  };
  using Vector = std::vector<float>;
  EXPECT_EQ(controlled(NormRule::kFree, 1, {3, 4}), (Vector{3, 4}));
  EXPECT_EQ(controlled(NormRule::kMax, 10, {3, 4}), (Vector{3, 4}));
  EXPECT_EQ(controlled(NormRule::kMax, 2.5, {3, 4}), (Vector{1.5, 2}));
  EXPECT_EQ(controlled(NormRule::kFixed, 10, {3, 4}), (Vector{6, 8}));
  EXPECT_EQ(controlled(NormRule::kFixed, 10, {0, 0}), (Vector{0, 0}));
  const float infinite = std::numeric_limits<float>::infinity();
  EXPECT_EQ(controlled(NormRule::kFixed, 10, {infinite, 0}), (Vector{infinite, 0}));
}

TEST(RandomStart, HasItsLengthAndItsSeedsDirection) {
  for (const std::int64_t hidden : {7, 64}) {
    const std::vector<float> vector = random_start(hidden, 2.5, 11);
    ASSERT_EQ(vector.size(), static_cast<std::size_t>(hidden));
    EXPECT_NEAR(vector_norm(vector), 2.5, 1e-6);
    EXPECT_EQ(random_start(hidden, 2.5, 11), vector);
    EXPECT_NE(random_start(hidden, 2.5, 12), vector);
    double product = 0;
    const std::vector<float> other = random_start(hidden, 1, 12);
    for (std::size_t i = 0; i < vector.size(); ++i) {
      product += vector[i] * other[i];
    }
    EXPECT_LT(std::abs(product) / 2.5, 0.9);
  }
  // A normal number is beyond 1 in 31.7 % of draws.
  const std::vector<float> many = random_start(10000, 100, 3);
  const auto beyond =
      std::count_if(many.begin(), many.end(), [](float x) { return std::abs(x) > 1; });
  EXPECT_NEAR(static_cast<double>(beyond), 3173, 150);
}

TEST(ClipNorm, ScalesLongGradientsOnlyAndReturnsTheLength) {
  std::vector<double> gradient = {3, 4};
  EXPECT_DOUBLE_EQ(clip_norm(gradient, 1), 5);
  EXPECT_NEAR(vector_norm(gradient), 1, 1e-6);
  EXPECT_NEAR(gradient[0] / gradient[1], 0.75, 1e-12);
  std::vector<double> small = {0.3, 0.4};
  EXPECT_DOUBLE_EQ(clip_norm(small, 1), 0.5);
  EXPECT_EQ(small[0], 0.3);
  std::vector<double> unclipped = {30, 40};
  EXPECT_DOUBLE_EQ(clip_norm(unclipped, 0), 50);
  EXPECT_EQ(unclipped[1], 40);
}

}  // namespace
}  // namespace bipo
