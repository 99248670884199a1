// The board of a sweep under way, and its estimates against sums worked out by hand.
#include "experiments/sweep_run/sweep_board.hpp"

#include <gtest/gtest.h>

namespace bipo {
namespace {

using enum CellStatus;

// Packs of two, two and one; a cell costs as much as its layer says.
SweepPlan plan_of_five() {
  SweepPlan plan;
  for (const std::int64_t layer : {10, 10, 6, 6, 4}) {
    Cell cell;
    cell.layer = layer;
    cell.name = "cell" + std::to_string(plan.cells.size());
    plan.cells.push_back(cell);
  }
  plan.packs = {{{plan.cells[0], plan.cells[1]}, "a"},
                {{plan.cells[2], plan.cells[3]}, "b"},
                {{plan.cells[4]}, "c"}};
  return plan;
}

double cost(const Cell& cell) {
  return static_cast<double>(cell.layer);
}

TEST(SweepEstimate, OfOneGroupAddsUpThePacks) {
  // A quarter of 20 is done at 0.5 a second.
  const SweepEstimate seconds = estimate(
      plan_of_five(), {kRunning, kRunning, kMissing, kMissing, kMissing}, cost, {0.5, 20, 0.25});
  EXPECT_DOUBLE_EQ(seconds.whole, (15 + 12 + 4) / 0.5);
  EXPECT_EQ(seconds.cells, (std::vector<double>{30, 30, 54, 54, 62}));
}

TEST(SweepEstimate, TakesOtherGroupsForAsFastAndAsFar) {
  // The other group's pack costs 12, so 32 / 20 groups are at work.
  const SweepEstimate seconds = estimate(
      plan_of_five(), {kRunning, kRunning, kRunning, kRunning, kMissing}, cost, {0.5, 20, 0.25});
  EXPECT_DOUBLE_EQ(seconds.whole, (24 + 4) / (0.5 * 1.6));
  EXPECT_EQ(seconds.cells[0], 30);
  EXPECT_EQ(seconds.cells[2], 18);
  EXPECT_DOUBLE_EQ(seconds.cells[4], (24 + 4) / (0.5 * 1.6));
}

TEST(SweepEstimate, HasNothingToSayOfWhatIsOverOrUnknown) {
  const SweepEstimate ended = estimate(
      plan_of_five(), {kComplete, kFailed, kComplete, kComplete, kComplete}, cost, {0.5, 0, 0});
  EXPECT_LT(ended.whole, 0);
  const SweepEstimate unknown = estimate(
      plan_of_five(), {kRunning, kRunning, kMissing, kMissing, kMissing}, cost, {0, 20, 0});
  EXPECT_LT(unknown.whole, 0);
  EXPECT_LT(unknown.cells[0], 0);
}

std::vector<std::string> texts(const std::vector<BoardLine>& lines) {
  std::vector<std::string> result;
  for (const BoardLine& line : lines) {
    result.push_back(line.text);
  }
  return result;
}

TEST(SweepBoard, HasALineForEachCell) {
  const std::vector<BoardLine> lines =
      sweep_board("sweep", {{"seed1", kComplete, -1}, {"seed10", kRunning, 65}}, 10);
  EXPECT_EQ(texts(lines), (std::vector<std::string>{"sweep", "  seed1   complete",
                                                    "  seed10  running  ETA 1:05"}));
  EXPECT_EQ(lines[1].colour, Colour::kGreen);
  EXPECT_EQ(lines[2].colour, Colour::kNone);
}

TEST(SweepBoard, ShowsWhatRunsFirstWhereRoomIsScarce) {
  const std::vector<BoardCell> cells = {
      {"a", kComplete, -1}, {"b", kMissing, -1}, {"c", kFailed, -1}, {"d", kRunning, -1}};
  EXPECT_EQ(texts(sweep_board("sweep", cells, 4)),
            (std::vector<std::string>{"sweep", "  d  running", "  c  failed", "  and 2 more"}));
  EXPECT_EQ(texts(sweep_board("sweep", cells, 1)), std::vector<std::string>{"sweep"});
}

TEST(SweepBoard, FitsEightyColumns) {
  const std::vector<BoardLine> lines =
      sweep_board("sweep", {{std::string(200, 'n'), kInterrupted, 360000}}, 10);
  EXPECT_LE(lines[1].text.size(), 80U);
}

}  // namespace
}  // namespace bipo
