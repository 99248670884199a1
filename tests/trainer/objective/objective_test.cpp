#include "trainer/objective/objective.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

Objective bipo_of(double beta) {
  return {ObjectiveKind::kBipo, beta};
}

PairObjective of_sums(const Objective& objective, const AnswerLogProbs& policy,
                      const AnswerLogProbs& reference, double direction) {
  return pair_objective(objective, policy, reference, {}, direction);
}

TEST(Objective, IsLnTwoWithoutAnyShift) {
  for (const double direction : {1.0, -1.0}) {
    const PairObjective result = of_sums(bipo_of(0.1), {-3, -5}, {-3, -5}, direction);
    EXPECT_DOUBLE_EQ(result.loss, std::log(2.0));
    EXPECT_EQ(result.margin, 0);
    EXPECT_DOUBLE_EQ(result.slope.chosen, -direction * 0.05);
    EXPECT_DOUBLE_EQ(result.slope.rejected, direction * 0.05);
  }
}

TEST(Objective, EqualsTheClosedForm) {
  // delta = (-3 + 4) - (-9 + 7) = 3
  const PairObjective plus = of_sums(bipo_of(0.5), {-3, -9}, {-4, -7}, 1);
  EXPECT_DOUBLE_EQ(plus.margin, 1.5);
  EXPECT_DOUBLE_EQ(plus.loss, std::log(1 + std::exp(-1.5)));
  EXPECT_DOUBLE_EQ(plus.slope.chosen, -0.5 / (1 + std::exp(1.5)));
  const PairObjective minus = of_sums(bipo_of(0.5), {-3, -9}, {-4, -7}, -1);
  EXPECT_DOUBLE_EQ(minus.margin, -1.5);
  EXPECT_DOUBLE_EQ(minus.loss, std::log(1 + std::exp(1.5)));
  EXPECT_DOUBLE_EQ(minus.slope.chosen, 0.5 / (1 + std::exp(-1.5)));
}

// What BiPO computed before there were others, in its order of operations.
TEST(Objective, BipoKeepsItsBits) {
  for (const double direction : {1.0, -1.0}) {
    for (const double shift : {-731.1, -3.7, -1e-7, 0.0, 0.3, 41.9, 2000.0}) {
      const AnswerLogProbs policy{-123.456 + shift, -98.7};
      const AnswerLogProbs reference{-120.1, -99.9};
      const double delta =
          (policy.chosen - reference.chosen) - (policy.rejected - reference.rejected);
      const double margin = direction * 0.1 * delta;
      const double slope = -direction * 0.1 * std::exp(log_sigmoid(-margin));
      const PairObjective found =
          pair_objective(bipo_of(0.1), policy, reference, {7, 3}, direction);
      EXPECT_EQ(found.margin, margin);
      EXPECT_EQ(found.loss, -log_sigmoid(margin));
      EXPECT_EQ(found.slope.chosen, slope);
      EXPECT_EQ(found.slope.rejected, -slope);
    }
  }
}

TEST(Objective, OthersEqualTheirClosedForms) {
  // delta = 3, by tokens (1 / 2) - (-2 / 4) = 1; the policy by itself is 6 ahead, by tokens 0.75.
  const AnswerLogProbs policy{-3, -9};
  const AnswerLogProbs reference{-4, -7};
  const AnswerTokens tokens{2, 4};
  const auto found = [&](ObjectiveKind kind, double smoothing, Reduction reduction) {
    return pair_objective({kind, 0.5, smoothing, 0.25, reduction}, policy, reference, tokens, 1);
  };
  const auto ln = [](double x) { return std::log(1 / (1 + std::exp(-x))); };
  EXPECT_DOUBLE_EQ(found(ObjectiveKind::kBipo, 0, Reduction::kMean).loss, -ln(0.5));
  EXPECT_DOUBLE_EQ(found(ObjectiveKind::kDpo, 0, Reduction::kSum).loss, -ln(1.5));
  EXPECT_DOUBLE_EQ(found(ObjectiveKind::kDpo, 0.2, Reduction::kSum).loss,
                   -0.8 * ln(1.5) - 0.2 * ln(-1.5));
  EXPECT_DOUBLE_EQ(found(ObjectiveKind::kIpo, 0, Reduction::kSum).loss, 4);   // (3 - 1)^2
  EXPECT_DOUBLE_EQ(found(ObjectiveKind::kIpo, 0, Reduction::kMean).loss, 0);  // (1 - 1)^2
  EXPECT_DOUBLE_EQ(found(ObjectiveKind::kIpo, 0, Reduction::kSum).margin, 1.5);
  EXPECT_DOUBLE_EQ(found(ObjectiveKind::kSimpo, 0, Reduction::kSum).loss, -ln(2.75));
  EXPECT_DOUBLE_EQ(found(ObjectiveKind::kSimpo, 0, Reduction::kMean).loss, -ln(0.125));
  EXPECT_DOUBLE_EQ(found(ObjectiveKind::kSimpo, 0, Reduction::kMean).margin, 0.375);
  EXPECT_DOUBLE_EQ(found(ObjectiveKind::kSft, 0, Reduction::kSum).loss, 3);
  EXPECT_DOUBLE_EQ(found(ObjectiveKind::kSft, 0, Reduction::kMean).loss, 1.5);
  EXPECT_DOUBLE_EQ(found(ObjectiveKind::kSft, 0, Reduction::kSum).margin, 3);
}

// Here log pi_0(yr) - log pi_0(yc) is 5 - 1, so that in reps the chosen answer counts four times in
// direction +1, and the other one once in direction -1.
TEST(Objective, RepsWeighsAnAnswerByTheReference) {
  const auto ln = [](double x) { return std::log(1 / (1 + std::exp(-x))); };
  const AnswerLogProbs policy{-3, -2};
  const AnswerLogProbs reference{-5, -1};
  const AnswerTokens tokens{2, 4};
  const Objective reps{ObjectiveKind::kReps, 0.5, 0, 0.25, Reduction::kMean};
  const PairObjective plus = pair_objective(reps, policy, reference, tokens, 1);
  EXPECT_DOUBLE_EQ(plus.loss, -ln(4 * -1.5 + 0.5));
  EXPECT_DOUBLE_EQ(plus.margin, 0.5 * (-1.5 + 0.5)) << "as of simpo";
  EXPECT_DOUBLE_EQ(plus.slope.chosen, -(4.0 / 2) / (1 + std::exp(-5.5)));
  EXPECT_DOUBLE_EQ(plus.slope.rejected, (1.0 / 4) / (1 + std::exp(-5.5)));
  const PairObjective minus = pair_objective(reps, policy, reference, tokens, -1);
  EXPECT_DOUBLE_EQ(minus.loss, -ln(-0.5 + 1.5));
  Objective sums = reps;
  sums.reduction = Reduction::kSum;
  EXPECT_DOUBLE_EQ(pair_objective(sums, policy, reference, tokens, 1).loss, -ln(4 * -3 + 2));
}

TEST(Objective, SuppressionTakesTheComplementsOfTheOtherAnswer) {
  const AnswerLogProbs complements{-0.7, -0.2};
  const Objective sums{ObjectiveKind::kSuppress, 0.5, 0, 0.25, Reduction::kSum};
  const PairObjective plus = pair_objective(sums, {-3, -9}, {}, {2, 4}, 1, complements);
  EXPECT_DOUBLE_EQ(plus.loss, 0.2);
  EXPECT_DOUBLE_EQ(plus.margin, 3);
  EXPECT_EQ(plus.slope.rejected, 0);
  EXPECT_EQ(plus.complement_slope.chosen, 0);
  EXPECT_EQ(plus.complement_slope.rejected, -1);
  const Objective mean{ObjectiveKind::kSuppress, 0.5, 0, 0.25, Reduction::kMean};
  const PairObjective minus = pair_objective(mean, {-3, -9}, {}, {2, 4}, -1, complements);
  EXPECT_DOUBLE_EQ(minus.loss, 0.35);
  EXPECT_EQ(minus.complement_slope.chosen, -0.5);
  EXPECT_EQ(minus.complement_slope.rejected, 0);
}

TEST(Objective, AComplementIsStableAtBothEnds) {
  // log(1 - 1/2), log(1 - 1/4)
  EXPECT_DOUBLE_EQ(complement(std::log(0.5)).value, std::log(0.5));
  EXPECT_DOUBLE_EQ(complement(std::log(0.25)).value, std::log(0.75));
  EXPECT_DOUBLE_EQ(complement(std::log(0.25)).slope, -1.0 / 3);
  // A token of probability e^-50: 1 - p is 1 in float64, its logarithm -p.
  EXPECT_DOUBLE_EQ(complement(-50).value, -std::exp(-50));
  EXPECT_DOUBLE_EQ(complement(-50).slope, -std::exp(-50));
  EXPECT_EQ(complement(-5000).value, 0);
  EXPECT_EQ(complement(-5000).slope, 0);
  const double impossible = -std::numeric_limits<double>::infinity();
  EXPECT_EQ(complement(impossible).value, 0);
  EXPECT_EQ(complement(impossible).slope, 0);
  // A certain token: finite, and on the tangent at the last value below.
  const Complement last = complement(kMostLogProb);
  EXPECT_NEAR(last.value, std::log(-kMostLogProb), 1e-6);
  EXPECT_NEAR(last.slope * -kMostLogProb, -1, 1e-6);
  EXPECT_DOUBLE_EQ(complement(0).value, last.value - last.slope * kMostLogProb);
  EXPECT_EQ(complement(0).slope, last.slope);
  for (const double log_prob : {-20.0, -0.7, -0.6, -1e-3}) {
    const double step = 1e-6 * -log_prob;
    const double slope =
        (complement(log_prob + step).value - complement(log_prob - step).value) / (2 * step);
    EXPECT_NEAR(complement(log_prob).slope, slope, 1e-8 * (1 + std::abs(slope))) << log_prob;
  }
}

std::vector<Objective> all_objectives() {
  std::vector<Objective> all;
  for (const std::string& name : objective_names()) {
    const ObjectiveKind kind = parse_objective(name);
    for (const double smoothing : {0.0, 0.2}) {
      for (const Reduction reduction : {Reduction::kSum, Reduction::kMean}) {
        if (smoothing == 0 || has_sigmoid(kind)) {
          all.push_back({kind, 0.3, smoothing, 0.4, reduction});
        }
      }
    }
  }
  return all;
}

TEST(Objective, SlopesEqualCentralDifferences) {
  constexpr double kStep = 1e-5;
  constexpr double kRounding = 1e-9;
  for (const Objective& objective : all_objectives()) {
    for (const double direction : {1.0, -1.0}) {
      const auto loss = [&](double chosen, double rejected) {
        return pair_objective(objective, {chosen, rejected}, {-1, -2.5}, {3, 5}, direction).loss;
      };
      const AnswerLogProbs slope =
          pair_objective(objective, {-4, -2}, {-1, -2.5}, {3, 5}, direction).slope;
      EXPECT_NEAR(slope.chosen, (loss(-4 + kStep, -2) - loss(-4 - kStep, -2)) / (2 * kStep),
                  kRounding)
          << to_string(objective.kind);
      EXPECT_NEAR(slope.rejected, (loss(-4, -2 + kStep) - loss(-4, -2 - kStep)) / (2 * kStep),
                  kRounding)
          << to_string(objective.kind);
    }
  }
}

// The formula for devices, evaluated here.
TEST(Objective, TheCommonFormGivesTheSame) {
  const AnswerLogProbs policy{-4, -2};
  const AnswerLogProbs reference{-7, -2.5};
  const AnswerLogProbs complements{-0.3, -0.6};
  const auto dot = [](const AnswerLogProbs& a, const AnswerLogProbs& b) {
    return a.chosen * b.chosen + a.rejected * b.rejected;
  };
  for (const Objective& objective : all_objectives()) {
    for (const double direction : {1.0, -1.0}) {
      const PairForm form = pair_form(objective, reference, {3, 5}, direction);
      const double margin = dot(form.margin, policy) + form.offset;
      const double z = margin - form.gamma + dot(form.argument, policy);
      const double distance = form.scale * margin - form.shift;
      const double loss = -form.sigmoid * log_sigmoid(z) - form.smoothed * log_sigmoid(-z) +
                          form.square * distance * distance + dot(form.plain, policy) +
                          dot(form.complement, complements);
      const PairObjective found =
          pair_objective(objective, policy, reference, {3, 5}, direction, complements);
      EXPECT_NEAR(margin, found.margin, 1e-14) << to_string(objective.kind);
      EXPECT_NEAR(loss, found.loss, 1e-13) << to_string(objective.kind);
    }
  }
}

TEST(Objective, TheOtherDirectionExchangesTheAnswers) {
  for (const Objective& objective : all_objectives()) {
    const PairObjective minus = pair_objective(objective, {-4, -2}, {-1, -2.5}, {3, 5}, -1);
    const PairObjective exchanged = pair_objective(objective, {-2, -4}, {-2.5, -1}, {5, 3}, 1);
    EXPECT_DOUBLE_EQ(minus.loss, exchanged.loss) << to_string(objective.kind);
    EXPECT_DOUBLE_EQ(minus.margin, exchanged.margin);
    EXPECT_DOUBLE_EQ(minus.slope.chosen, exchanged.slope.rejected);
    EXPECT_DOUBLE_EQ(minus.slope.rejected, exchanged.slope.chosen);
  }
}

TEST(Objective, ReferenceFreeOnesDoNotReadTheReference) {
  const double nothing = std::nan("");
  for (const Objective& objective : all_objectives()) {
    const PairObjective found = pair_objective(objective, {-4, -2}, {nothing, nothing}, {3, 5}, 1);
    EXPECT_EQ(std::isfinite(found.loss), !uses_reference(objective.kind));
  }
}

TEST(Objective, NoLossOfSanePairsIsAboveTheBound) {
  for (const Objective& objective : all_objectives()) {
    for (const double nats : {0.0, 5.0, 4000.0}) {
      for (const double direction : {1.0, -1.0}) {
        const bool wins = direction < 0;  // the worse: what is trained lost all the nats
        const AnswerLogProbs policy = wins ? AnswerLogProbs{0, -nats} : AnswerLogProbs{-nats, 0};
        EXPECT_LE(pair_objective(objective, policy, {}, {1, 1}, direction).loss,
                  largest_loss(objective, nats) * (1 + 1e-12))
            << to_string(objective.kind) << ' ' << nats;
      }
    }
  }
}

TEST(Objective, DoesNotOverflow) {
  EXPECT_DOUBLE_EQ(log_sigmoid(-2000), -2000);
  EXPECT_EQ(log_sigmoid(2000), 0);
  const PairObjective far = of_sums(bipo_of(1), {-5000, 0}, {0, 0}, 1);
  EXPECT_DOUBLE_EQ(far.loss, 5000);
  EXPECT_DOUBLE_EQ(far.slope.chosen, -1);
}

TEST(Objective, NamesAreRead) {
  for (const std::string& name : objective_names()) {
    EXPECT_EQ(to_string(parse_objective(name)), name);
  }
  EXPECT_EQ(parse_reduction("mean"), Reduction::kMean);
  testing::expect_parts(testing::error_of<UserError>([] { parse_objective("orpo"); }),
                        {"objective 'orpo'", "bipo, dpo, ipo, simpo, sft, suppress, reps"});
}

}  // namespace
}  // namespace bipo
