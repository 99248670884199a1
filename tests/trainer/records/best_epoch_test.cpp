// The best of a run's evaluations, worked out by hand.
#include "trainer/records/best_epoch.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <utility>
#include <vector>

namespace bipo {
namespace {

// An evaluation at -1, 0 and +1 with the margins of the two sides; two steps to an epoch.
void add(std::vector<EvalRow>& rows, std::int32_t epoch, double minus, double plus) {
  for (const auto& [multiplier, margin] :
       {std::pair{-1.0, minus}, std::pair{0.0, 0.0}, std::pair{1.0, plus}}) {
    EvalRow row;
    row.step = 2 * epoch + 2;
    row.epoch = epoch;
    row.multiplier = multiplier;
    row.margin = margin;
    rows.push_back(row);
  }
}

TEST(BestEpoch, HasTheLargestMarginAtPlusLessThatAtMinus) {
  std::vector<EvalRow> rows;
  add(rows, 0, -1, 1);
  add(rows, 1, -3, 0.5);  // 3.5, though less than before at +1
  add(rows, 2, 2, 5);
  const auto best = best_epoch(rows);
  ASSERT_TRUE(best);
  EXPECT_EQ(best->epoch, 1);
  EXPECT_EQ(best->step, 4);
  EXPECT_EQ(best->margin, 3.5);
  EXPECT_EQ(evaluations_since_best(rows), 1);
}

TEST(BestEpoch, OfEqualOnesIsTheEarliest) {
  std::vector<EvalRow> rows;
  for (const std::int32_t epoch : {0, 2, 4}) {
    add(rows, epoch, -1, 1);
  }
  EXPECT_EQ(best_epoch(rows)->epoch, 0);
  EXPECT_EQ(evaluations_since_best(rows), 2);
}

TEST(BestEpoch, NeedsBothSides) {
  std::vector<EvalRow> rows;
  EXPECT_FALSE(best_epoch(rows));
  EXPECT_EQ(evaluations_since_best(rows), 0);
  add(rows, 0, -1, 1);
  add(rows, 1, -9, 9);
  rows.pop_back();  // +1 of the second evaluation
  EXPECT_EQ(best_epoch(rows)->epoch, 0);
  EXPECT_EQ(evaluated_epochs(rows).size(), 1U);
  rows.erase(rows.begin());  // -1 of the first
  EXPECT_FALSE(best_epoch(rows));
}

TEST(BestEpoch, LeavesOutWhatIsNotANumber) {
  std::vector<EvalRow> rows;
  add(rows, 0, std::numeric_limits<double>::quiet_NaN(), 1);
  add(rows, 1, 1, -1);
  EXPECT_EQ(best_epoch(rows)->epoch, 1) << "below 0, but the only one";
}

}  // namespace
}  // namespace bipo
