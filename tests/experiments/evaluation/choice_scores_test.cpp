// Accuracy and probability of multiple-choice items against numbers worked out by hand.
#include "experiments/evaluation/choice_scores.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "datasets/rows/choice_items.hpp"

namespace bipo {
namespace {

using Values = std::vector<double>;

ChoiceItem item(const std::vector<bool>& right) {
  ChoiceItem result;
  for (const bool is_right : right) {
    result.choices.push_back({"text", is_right});
  }
  return result;
}

TEST(ChoiceScores, TwoChoicesGiveTheLogisticOfTheirDifference) {
  const ChoiceScore score = score_choices(item({false, true}), Values{-4, -2.5});
  EXPECT_TRUE(score.correct);
  EXPECT_NEAR(score.probability, 1 / (1 + std::exp(-1.5)), 1e-15);
  EXPECT_FALSE(score_choices(item({true, false}), Values{-4, -2.5}).correct);
}

TEST(ChoiceScores, ATieIsAMiss) {
  EXPECT_FALSE(score_choices(item({true, false}), Values{-3, -3}).correct);
  EXPECT_EQ(score_choices(item({true, false}), Values{-3, -3}).probability, 0.5);
}

// numpy: np.exp([-3, -2.25]).sum() / np.exp([-3, -1.5, -2.25, -9]).sum()
TEST(ChoiceScores, SeveralRightChoicesAddUp) {
  const ChoiceScore score =
      score_choices(item({true, false, true, false}), Values{-3, -1.5, -2.25, -9});
  EXPECT_FALSE(score.correct);
  EXPECT_NEAR(score.probability, 0.4100685687491013, 1e-15);
}

TEST(ChoiceScores, AnswersTooUnlikelyForADoubleKeepTheirRatio) {
  EXPECT_NEAR(score_choices(item({true, false}), Values{-5000, -5001}).probability,
              1 / (1 + std::exp(-1.0)), 1e-15);
}

// The second right choice counts in MC2 only, the second wrong one in MC1 only.
TEST(ChoiceScores, Mc1AndMc2HaveChoicesOfTheirOwn) {
  ChoiceItem truthful = item({true, true, false, false});
  truthful.choices[1].in_mc1 = false;
  truthful.choices[3].in_mc2 = false;
  const double log2 = std::log(2.0);
  const ChoiceScore wrong = score_choices(truthful, Values{-3 * log2, -log2, -4 * log2, -log2});
  EXPECT_FALSE(wrong.correct);
  EXPECT_NEAR(wrong.probability, 10.0 / 11.0, 1e-15);  // (1/8 + 1/2) / (1/8 + 1/2 + 1/16)
  EXPECT_TRUE(score_choices(truthful, Values{-3, 0, -4, -5}).correct);
}

TEST(ChoiceScores, SummaryAveragesItemsAndSubjects) {
  const std::vector<ChoiceScore> scores = {{true, 0.75}, {false, 0.25}, {false, 0.5}, {true, 1}};
  const ChoiceSummary summary =
      summarize_choices(scores, std::vector<std::string>{"law", "law", "law", "maths"}, 1);
  EXPECT_EQ(summary.items, 4);
  EXPECT_EQ(summary.accuracy.value, 0.5);
  EXPECT_EQ(summary.probability.value, 0.625);
  EXPECT_NEAR(summary.macro_accuracy, (1.0 / 3 + 1) / 2, 1e-15);
  const ChoiceSummary alike = summarize_choices(scores, std::vector<std::string>(4), 1);
  EXPECT_EQ(alike.macro_accuracy, alike.accuracy.value);
  EXPECT_TRUE(std::isnan(summarize_choices({}, {}, 1).accuracy.value));
}

TEST(ChoiceScores, CountsThatDifferAreABug) {
  EXPECT_THROW(score_choices(item({true, false}), Values{-1}), BugError);
}

}  // namespace
}  // namespace bipo
