// Settings, directions and controls of an evaluation, worked out by hand.
#include "experiments/evaluation_run/steering_plan.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "tests/support/errors.hpp"
#include "trainer/records/records.hpp"

namespace bipo {
namespace {

using Indices = std::vector<std::size_t>;
using Settings = std::vector<std::vector<double>>;
using Values = std::vector<float>;

using testing::error_of;
using testing::expect_parts;

StoredVector stored(Values value, std::int64_t layer) {
  StoredVector vector;
  vector.value = std::move(value);
  vector.layer = layer;
  return vector;
}

VectorInUse in_use(Values value, double weight, std::int64_t layer) {
  return {{"v.h5", weight}, stored(std::move(value), layer)};
}

// 3 (1, 0) + 2 (0, 2) = (3, 4), of norm 5.
std::vector<VectorInUse> two_of_one_layer() {
  std::vector<VectorInUse> vectors = {in_use({1, 0}, 3, 1), in_use({0, 2}, 2, 1)};
  vectors[1].choice_index = 1;
  return vectors;
}

EvaluateOptions options_of(std::vector<double> multipliers, bool random_control = false) {
  EvaluateOptions options;
  options.multipliers = std::move(multipliers);
  options.random_control = random_control;
  options.caa.file = "caa.h5";
  return options;
}

TEST(PlanSteering, OneVectorAtEachMultiplier) {
  const SteeringPlan plan =
      plan_steering({in_use({3, 4}, 2, 1)}, std::nullopt, options_of({-1, 0, 0.5}));
  ASSERT_EQ(plan.vectors.size(), 1U);
  EXPECT_EQ(plan.vectors[0].layer, 1);
  EXPECT_EQ(plan.vectors[0].value, (Values{3, 4}));  // without its weight
  EXPECT_EQ(plan.coefficients, (Settings{{0}, {-2}, {1}}));
  EXPECT_EQ(plan.direction_settings, 3U);
  ASSERT_EQ(plan.directions.size(), 1U);
  EXPECT_EQ(plan.directions[0].name, "vector");
  EXPECT_DOUBLE_EQ(plan.directions[0].norm, 10);
  EXPECT_EQ(plan.directions[0].settings, (Indices{1, 0, 2}));
  EXPECT_TRUE(plan.grid.empty());
}

VectorInUse conceptor_in_use(Values matrix, double beta, std::int64_t layer) {
  VectorInUse conceptor;
  conceptor.choice = {"c.h5", beta};
  conceptor.stored.layer = layer;
  conceptor.matrix = std::move(matrix);
  return conceptor;
}

TEST(PlanSteering, TheBetaOfAConceptorIsPartOfWhatItDoesAtOne) {
  // 2 C - I = (0, 1; 1, -2), of Frobenius norm sqrt(6).
  const Values matrix = {0.5, 0.5, 0.5, -0.5};
  const SteeringPlan plan =
      plan_steering({conceptor_in_use(matrix, 2, 1)}, std::nullopt, options_of({-1, 0, 0.5}));
  ASSERT_EQ(plan.vectors.size(), 1U);
  EXPECT_EQ(plan.vectors[0].value, matrix);
  EXPECT_EQ(plan.vectors[0].intervention, (Intervention{Intervention::Kind::kConceptor, 2}));
  EXPECT_EQ(plan.coefficients, (Settings{{0}, {-1}, {0.5}}));
  EXPECT_DOUBLE_EQ(plan.directions[0].norm, std::sqrt(6));
}

TEST(PlanSteering, AMovedConceptorHasTheSameNumbersInOtherPlaces) {
  constexpr std::size_t kHidden = 7;
  Values matrix(kHidden * kHidden);
  for (std::size_t i = 0; i < kHidden; ++i) {
    for (std::size_t j = 0; j < kHidden; ++j) {
      matrix[i * kHidden + j] = static_cast<float>(i * j + i + j);
    }
  }
  const Values moved = moved_conceptor(matrix, kHidden, 1, 11);
  EXPECT_NE(moved, matrix);
  EXPECT_EQ(moved_conceptor(matrix, kHidden, 1, 11), moved);
  EXPECT_NE(moved_conceptor(matrix, kHidden, 2, 11), moved);
  EXPECT_NE(moved_conceptor(matrix, kHidden, 1, 11, 1), moved);
  // P C P^T with one number of size 1 in each row and column of P: which is it, by the diagonal?
  std::vector<std::size_t> from;
  for (std::size_t i = 0; i < kHidden; ++i) {
    for (std::size_t k = 0; k < kHidden; ++k) {
      if (matrix[k * (kHidden + 1)] == moved[i * (kHidden + 1)]) {
        from.push_back(k);
      }
    }
  }
  ASSERT_EQ(from.size(), kHidden);
  const auto sign = [&](std::size_t i) { return moved[i] == matrix[from[0] * kHidden + from[i]]; };
  for (std::size_t i = 0; i < kHidden; ++i) {
    for (std::size_t j = 0; j < kHidden; ++j) {
      const float size = matrix[from[i] * kHidden + from[j]];
      EXPECT_EQ(moved[i * kHidden + j], sign(i) == sign(j) ? size : -size) << i << j;
    }
  }
}

TEST(PlanSteering, TheRandomControlOfConceptorsIsAMovedOneOfEach) {
  EvaluateOptions options = options_of({1}, /*random_control=*/true);
  options.random = 2;
  const Values one = {0.5, 0.25, 0.25, 0.75};
  const SteeringPlan plan = plan_steering(
      {conceptor_in_use(one, 2, 1), conceptor_in_use(one, 1, 3)}, std::nullopt, options);
  ASSERT_EQ(plan.vectors.size(), 6U);
  EXPECT_EQ(plan.vectors[2].value, moved_conceptor(one, 2, 1, options.seed));
  EXPECT_EQ(plan.vectors[2].intervention.level, 2);
  EXPECT_EQ(plan.vectors[3].value, moved_conceptor(one, 2, 3, options.seed));
  EXPECT_EQ(plan.vectors[4].value, moved_conceptor(one, 2, 1, options.seed, 1));
  EXPECT_EQ(
      plan.coefficients,
      (Settings{{0, 0, 0, 0, 0, 0}, {1, 1, 0, 0, 0, 0}, {0, 0, 1, 1, 0, 0}, {0, 0, 0, 0, 1, 1}}));
}

TEST(PlanSteering, ConceptorsAndTheirControlsTakeMemory) {
  const VectorInUse conceptor = conceptor_in_use({1, 0, 0, 0.5}, 1, 1);
  const std::vector<VectorInUse> vectors = {conceptor, in_use({3, 4}, 1, 1)};
  EXPECT_EQ(conceptor_device_bytes(vectors, /*controls=*/2, c10::kCUDA), 3U * 16);
  EXPECT_EQ(conceptor_device_bytes(vectors, 2, c10::kCPU), 2U * 3 * 16);
  EXPECT_EQ(conceptor_device_bytes({in_use({3, 4}, 1, 1)}, 2, c10::kCPU), 0U);
  EXPECT_EQ(conceptor_device_bytes(vectors, std::numeric_limits<std::int64_t>::max(), c10::kCPU),
            std::uint64_t{1} << 62);
}

TEST(PlanSteering, TheGridOfTwoConceptorsLeavesTheirBetas) {
  std::vector<VectorInUse> conceptors = {conceptor_in_use({1, 0, 0, 0.5}, 3, 1),
                                         conceptor_in_use({0.5, 0, 0, 1}, 2, 1)};
  conceptors[1].choice_index = 1;
  EvaluateOptions options = options_of({1});
  options.grid = {0, 2};
  const SteeringPlan plan = plan_steering(conceptors, std::nullopt, options);
  EXPECT_EQ(plan.coefficients, (Settings{{0, 0}, {1, 1}, {0, 2}, {2, 0}, {2, 2}}));
  EXPECT_EQ(plan.vectors[0].intervention.level, 3);
  EXPECT_EQ(plan.vectors[1].intervention.level, 2);
}

TEST(PlanSteering, ConceptorsAreEvaluatedWithoutVectorsAndMeanDifference) {
  const VectorInUse conceptor = conceptor_in_use({1, 0, 0, 0.5}, 1, 1);
  expect_parts(error_of<UserError>([&] {
                 plan_steering({conceptor, in_use({3, 4}, 1, 1)}, std::nullopt, options_of({1}));
               }),
               {"--vector v.h5", "conceptor", "apart"});
  expect_parts(error_of<UserError>([&] {
                 plan_steering({conceptor}, stored({0, 1}, 1), options_of({1}));
               }),
               {"--caa caa.h5", "conceptor"});
  expect_parts(
      error_of<UserError>([&] {
        plan_steering({conceptor_in_use({1, 0, 0, 1}, 1, 1)}, std::nullopt, options_of({1}));
      }),
      {"nothing to evaluate"});
}

TEST(PlanSteering, NothingIsAddedFirstEvenWithoutMultiplierZero) {
  const SteeringPlan plan = plan_steering({in_use({3, 4}, 1, 1)}, std::nullopt, options_of({2, 1}));
  EXPECT_EQ(plan.coefficients, (Settings{{0}, {2}, {1}}));
  EXPECT_EQ(plan.directions[0].settings, (Indices{1, 2}));
}

TEST(PlanSteering, ZeroHasNoSign) {
  const SteeringPlan plan =
      plan_steering({in_use({3, 4}, 1, 1), in_use({1, 1}, 0, 1)}, std::nullopt, options_of({-1}));
  ASSERT_EQ(plan.coefficients, (Settings{{0, 0}, {-1, 0}}));
  EXPECT_FALSE(std::signbit(plan.coefficients[1][1]));
}

TEST(PlanSteering, TheWeightOfTheMeanDifferenceIsAShareOfTheNorm) {
  EvaluateOptions options = options_of({1}, /*random_control=*/true);
  options.caa.weight = -0.5;
  const SteeringPlan plan = plan_steering(two_of_one_layer(), stored({0, 0.25}, 1), options);
  ASSERT_EQ(plan.vectors.size(), 4U);
  EXPECT_EQ(plan.vectors[2].value, (Values{0, -2.5}));
  ASSERT_EQ(plan.directions.size(), 3U);
  EXPECT_DOUBLE_EQ(plan.directions[0].norm, 5);
  EXPECT_DOUBLE_EQ(plan.directions[1].norm, 2.5);
  EXPECT_DOUBLE_EQ(plan.directions[2].norm, 5);
  options.caa.weight = 0;
  expect_parts(error_of<UserError>([&] {
                 plan_steering(two_of_one_layer(), stored({0, 0.25}, 1), options);
               }),
               {"--caa caa.h5", "weight is 0"});
}

TEST(PlanSteering, TheMeanDifferenceIsScaledToTheNormOfTheSum) {
  const SteeringPlan plan =
      plan_steering(two_of_one_layer(), stored({0, -0.5}, 1), options_of({-1, 0, 0.5}));
  ASSERT_EQ(plan.vectors.size(), 3U);
  EXPECT_EQ(plan.vectors[2].layer, 1);
  EXPECT_EQ(plan.vectors[2].value, (Values{0, -5}));
  EXPECT_EQ(plan.coefficients,
            (Settings{{0, 0, 0}, {-3, -2, 0}, {1.5, 1, 0}, {0, 0, -1}, {0, 0, 0.5}}));
  ASSERT_EQ(plan.directions.size(), 2U);
  EXPECT_EQ(plan.directions[0].settings, (Indices{1, 0, 2}));
  EXPECT_EQ(plan.directions[1].name, "caa");
  EXPECT_EQ(plan.directions[1].settings, (Indices{3, 0, 4}));
  EXPECT_DOUBLE_EQ(plan.directions[1].norm, 5);
  EXPECT_EQ(plan.direction_settings, 5U);
}

// Norms 3 and 4 at layers 0 and 2.
TEST(PlanSteering, TheRandomControlHasTheNormOfEachLayer) {
  const std::vector<VectorInUse> vectors = {in_use({0, 4, 0}, 1, 2), in_use({3, 0, 0}, 1, 0)};
  const SteeringPlan plan = plan_steering(vectors, std::nullopt, options_of({1, 2}, true));
  ASSERT_EQ(plan.vectors.size(), 4U);
  EXPECT_EQ(plan.vectors[2].layer, 0);
  EXPECT_NEAR(vector_norm(plan.vectors[2].value), 3, 1e-6);
  EXPECT_EQ(plan.vectors[3].layer, 2);
  EXPECT_NEAR(vector_norm(plan.vectors[3].value), 4, 1e-6);
  EXPECT_EQ(plan.coefficients,
            (Settings{{0, 0, 0, 0}, {1, 1, 0, 0}, {2, 2, 0, 0}, {0, 0, 1, 1}, {0, 0, 2, 2}}));
  ASSERT_EQ(plan.directions.size(), 2U);
  EXPECT_EQ(plan.directions[1].name, "random");
  EXPECT_EQ(plan.directions[1].settings, (Indices{3, 4}));
  EXPECT_DOUBLE_EQ(plan.directions[1].norm, 5);
}

// Norms 3 and 4 at the two sites of one layer.
TEST(PlanSteering, ControlsActAtTheSitesOfTheVectors) {
  std::vector<VectorInUse> vectors = {in_use({0, 4, 0}, 1, 2), in_use({3, 0, 0}, 1, 2)};
  vectors[1].stored.site = Site::kMlp;
  const SteeringPlan plan = plan_steering(vectors, std::nullopt, options_of({1}, true));
  ASSERT_EQ(plan.vectors.size(), 4U);
  EXPECT_EQ(plan.vectors[0].site, Site::kBlock);
  EXPECT_EQ(plan.vectors[1].site, Site::kMlp);
  EXPECT_EQ(plan.vectors[2].site, Site::kMlp);
  EXPECT_NEAR(vector_norm(plan.vectors[2].value), 3, 1e-6);
  EXPECT_EQ(plan.vectors[3].site, Site::kBlock);
  EXPECT_NEAR(vector_norm(plan.vectors[3].value), 4, 1e-6);
  EXPECT_GT(std::abs(plan.vectors[2].value[0] / 3 - plan.vectors[3].value[0] / 4), 1e-3);

  StoredVector caa = stored({0, 0, 1}, 2);
  expect_parts(error_of<UserError>([&] { plan_steering({vectors[1]}, caa, options_of({1})); }),
               {"--caa caa.h5", "--site block", "--site mlp", "same site"});
  expect_parts(error_of<UserError>([&] { plan_steering(vectors, caa, options_of({1})); }),
               {"--caa needs vectors of one layer and site"});
  caa.site = Site::kMlp;
  EXPECT_EQ(plan_steering({vectors[1]}, caa, options_of({1})).vectors[1].site, Site::kMlp);
}

TEST(PlanSteering, ControlsComeInOneOrder) {
  const SteeringPlan plan =
      plan_steering(two_of_one_layer(), stored({1, 0}, 1), options_of({1}, true));
  ASSERT_EQ(plan.directions.size(), 3U);
  EXPECT_EQ(plan.directions[1].name, "caa");
  EXPECT_EQ(plan.directions[2].name, "random");
  EXPECT_EQ(plan.coefficients, (Settings{{0, 0, 0, 0}, {3, 2, 0, 0}, {0, 0, 1, 0}, {0, 0, 0, 1}}));
}

TEST(PlanSteering, FurtherDrawsComeBehindAllOtherDirections) {
  EvaluateOptions options = options_of({1, 2}, true);
  options.random = 3;
  options.grid = {0, 1};
  const SteeringPlan plan = plan_steering(two_of_one_layer(), stored({1, 0}, 1), options);
  std::vector<std::string> names;
  for (const Direction& direction : plan.directions) {
    names.push_back(direction.name);
    EXPECT_DOUBLE_EQ(direction.norm, 5) << direction.name;
    EXPECT_EQ(direction.is_further_draw, direction.name.starts_with("random-")) << direction.name;
  }
  EXPECT_EQ(names, (std::vector<std::string>{"vector", "caa", "random", "random-2", "random-3"}));
  // Nothing, and two multipliers of the three directions that are measured everywhere.
  EXPECT_EQ(plan.direction_settings, 7U);
  EXPECT_EQ(plan.directions[3].settings, (Indices{7, 8}));
  EXPECT_EQ(plan.directions[4].settings, (Indices{9, 10}));
  ASSERT_EQ(plan.vectors.size(), 6U);
  EXPECT_EQ(plan.coefficients[8], (std::vector<double>{0, 0, 0, 0, 2, 0}));
  for (std::size_t vector = 3; vector < 6; ++vector) {
    EXPECT_NEAR(vector_norm(plan.vectors[vector].value), 5, 1e-6);
  }
  // The first is the one of a single draw.
  EvaluateOptions single = options_of({1, 2}, true);
  EXPECT_EQ(plan.vectors[3].value,
            plan_steering(two_of_one_layer(), stored({1, 0}, 1), single).vectors[3].value);
  options.random = 0;
  EXPECT_EQ(plan_steering(two_of_one_layer(), std::nullopt, options).directions.size(), 1U);
  options.random = 3;
  options.random_control = false;
  EXPECT_EQ(plan_steering(two_of_one_layer(), std::nullopt, options).directions.size(), 1U);
}

// Nine points; (0, 0) and (0.5, 0.5) are settings of the vectors already.
TEST(PlanSteering, TheGridCombinesTwoVectorsAndSharesSettings) {
  EvaluateOptions options = options_of({0.5, 1});
  options.grid = {0, 0.5, 2};
  const SteeringPlan plan = plan_steering(two_of_one_layer(), std::nullopt, options);
  EXPECT_EQ(
      plan.coefficients,
      (Settings{
          {0, 0}, {1.5, 1}, {3, 2}, {0, 1}, {0, 4}, {1.5, 0}, {1.5, 4}, {6, 0}, {6, 1}, {6, 4}}));
  EXPECT_EQ(plan.direction_settings, 3U);
  const std::vector<std::vector<double>> expected = {{0, 0, 0},   {0, 0.5, 3},   {0, 2, 4},
                                                     {0.5, 0, 5}, {0.5, 0.5, 1}, {0.5, 2, 6},
                                                     {2, 0, 7},   {2, 0.5, 8},   {2, 2, 9}};
  ASSERT_EQ(plan.grid.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ((std::vector<double>{plan.grid[i].multiplier_1, plan.grid[i].multiplier_2,
                                   static_cast<double>(plan.grid[i].setting)}),
              expected[i]);
  }
}

// A run of two layers is one axis of the grid.
TEST(PlanSteering, TheGridMovesAllVectorsOfAChoiceTogether) {
  std::vector<VectorInUse> vectors = {in_use({1, 0}, 3, 1), in_use({4, 0}, 3, 2),
                                      in_use({0, 2}, 2, 1)};
  vectors[2].choice_index = 1;
  EvaluateOptions options = options_of({1});
  options.grid = {0, 2};
  const SteeringPlan plan = plan_steering(vectors, std::nullopt, options);
  EXPECT_EQ(plan.coefficients, (Settings{{0, 0, 0}, {3, 3, 2}, {0, 0, 4}, {6, 6, 0}, {6, 6, 4}}));
  ASSERT_EQ(plan.grid.size(), 4U);
  EXPECT_EQ(plan.grid[2].setting, 3U);
}

TEST(PlanSteering, VectorsThatAddNothingAreRefused) {
  for (const auto& vectors :
       std::vector<std::vector<VectorInUse>>{{in_use({3, 4}, 1, 1), in_use({-6, -8}, 0.5, 1)},
                                             {in_use({3, 4}, 0, 1)},
                                             {in_use({3, 4}, 1e308, 1)}}) {
    expect_parts(
        error_of<UserError>([&] { plan_steering(vectors, std::nullopt, options_of({1})); }),
        {"there is nothing to evaluate"});
  }
}

TEST(CheckIntervention, AVectorOfZerosHasNoDirection) {
  std::vector<VectorInUse> vectors = {in_use({3, 4}, 1, 1), in_use({0, 0}, 1, 2)};
  const Intervention null = parse_intervention("null");
  check_intervention(vectors, null);  // another layer of the same run has moved
  vectors[1].choice_index = 1;
  expect_parts(error_of<UserError>([&] { check_intervention(vectors, null); }),
               {"--vector v.h5", "zero", "--intervention null"});
  check_intervention(vectors, Intervention());
}

TEST(PlanSteering, AMeanDifferenceThatDoesNotFitIsRefused) {
  const auto refusal = [](const std::vector<VectorInUse>& vectors, const StoredVector& caa) {
    return error_of<UserError>([&] { plan_steering(vectors, caa, options_of({1})); });
  };
  expect_parts(refusal(two_of_one_layer(), stored({1, 0, 0}, 1)),
               {"--caa caa.h5", "3 numbers", "the vectors have 2"});
  expect_parts(refusal(two_of_one_layer(), stored({1, 0}, 2)),
               {"--caa caa.h5", "layer 2", "the vectors to layer 1"});
  expect_parts(refusal(two_of_one_layer(), stored({0, 0}, 1)), {"--caa caa.h5", "it is zero"});
  expect_parts(refusal({in_use({1, 0}, 1, 0), in_use({1, 0}, 1, 1)}, stored({1, 0}, 0)),
               {"--caa needs vectors of one layer"});
}

// At its norm sqrt(D), the elements of a normal direction have mean 0, variance 1 and fourth moment
// 3; the bounds are five standard errors.
TEST(RandomDirection, IsNormal) {
  constexpr std::size_t kHidden = 16384;
  const Values direction = random_direction(kHidden, 128, 3, 11);
  ASSERT_EQ(direction.size(), kHidden);
  EXPECT_NEAR(vector_norm(direction), 128, 1e-4);
  double sum = 0;
  double fourth = 0;
  double neighbours = 0;
  for (std::size_t i = 0; i < kHidden; ++i) {
    const double value = direction[i];
    sum += value;
    fourth += value * value * value * value;
    neighbours += value * static_cast<double>(direction[(i + 1) % kHidden]);
  }
  EXPECT_NEAR(sum / kHidden, 0, 5 / 128.0);
  EXPECT_NEAR(fourth / kHidden, 3, 5 * std::sqrt(96.0) / 128);
  EXPECT_NEAR(neighbours / kHidden, 0, 5 / 128.0);
}

// The cosine of two independent directions has mean 0 and standard deviation 1 / sqrt(D).
TEST(RandomDirection, DrawsAreIndependent) {
  constexpr std::size_t kHidden = 4096;
  for (std::uint32_t first = 0; first < 4; ++first) {
    for (std::uint32_t second = 0; second < first; ++second) {
      const Values a = random_direction(kHidden, 1, 3, 11, first);
      const Values b = random_direction(kHidden, 1, 3, 11, second);
      double cosine = 0;
      for (std::size_t i = 0; i < kHidden; ++i) {
        cosine += static_cast<double>(a[i]) * static_cast<double>(b[i]);
      }
      EXPECT_NEAR(cosine, 0, 5 / 64.0) << first << " and " << second;
    }
  }
  EXPECT_EQ(random_direction(kHidden, 1, 3, 11, 0), random_direction(kHidden, 1, 3, 11));
}

TEST(RandomDirection, IsAFunctionOfSeedAndLayer) {
  const Values direction = random_direction(7, 2, 3, 11);
  EXPECT_EQ(direction.size(), 7U);
  EXPECT_NEAR(vector_norm(direction), 2, 1e-6);
  EXPECT_EQ(random_direction(7, 2, 3, 11), direction);
  EXPECT_NE(random_direction(7, 2, 4, 11), direction);
  EXPECT_NE(random_direction(7, 2, 3, 12), direction);
  EXPECT_NE(random_direction(7, 2, 3, 11 + (std::uint64_t{1} << 32)), direction);
}

}  // namespace
}  // namespace bipo
