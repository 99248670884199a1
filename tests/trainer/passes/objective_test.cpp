#include "trainer/passes/objective.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace bipo {
namespace {

TEST(Objective, IsLnTwoWithoutAnyShift) {
  for (const double direction : {1.0, -1.0}) {
    const PairObjective result = pair_objective({-3, -5}, {-3, -5}, direction, 0.1);
    EXPECT_DOUBLE_EQ(result.loss, std::log(2.0));
    EXPECT_EQ(result.margin, 0);
    EXPECT_DOUBLE_EQ(result.loss_by_delta, -direction * 0.05);
  }
}

TEST(Objective, EqualsTheClosedForm) {
  // delta = (-3 + 4) - (-9 + 7) = 3
  const PairObjective plus = pair_objective({-3, -9}, {-4, -7}, 1, 0.5);
  EXPECT_DOUBLE_EQ(plus.margin, 1.5);
  EXPECT_DOUBLE_EQ(plus.loss, std::log(1 + std::exp(-1.5)));
  EXPECT_DOUBLE_EQ(plus.loss_by_delta, -0.5 / (1 + std::exp(1.5)));
  const PairObjective minus = pair_objective({-3, -9}, {-4, -7}, -1, 0.5);
  EXPECT_DOUBLE_EQ(minus.margin, -1.5);
  EXPECT_DOUBLE_EQ(minus.loss, std::log(1 + std::exp(1.5)));
  EXPECT_DOUBLE_EQ(minus.loss_by_delta, 0.5 / (1 + std::exp(-1.5)));
}

TEST(Objective, DerivativeEqualsCentralDifferences) {
  constexpr double kStep = 1e-6;
  for (const double direction : {1.0, -1.0}) {
    const auto loss = [&](double chosen) {
      return pair_objective({chosen, -2}, {-1, -2.5}, direction, 0.3).loss;
    };
    EXPECT_NEAR(pair_objective({-4, -2}, {-1, -2.5}, direction, 0.3).loss_by_delta,
                (loss(-4 + kStep) - loss(-4 - kStep)) / (2 * kStep), 1e-9);
  }
}

TEST(Objective, DoesNotOverflow) {
  EXPECT_DOUBLE_EQ(log_sigmoid(-2000), -2000);
  EXPECT_EQ(log_sigmoid(2000), 0);
  const PairObjective far = pair_objective({-5000, 0}, {0, 0}, 1, 1);
  EXPECT_DOUBLE_EQ(far.loss, 5000);
  EXPECT_DOUBLE_EQ(far.loss_by_delta, -1);
}

}  // namespace
}  // namespace bipo
