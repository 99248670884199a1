// What the progress display writes, with a clock and a terminal that the test moves.
#include "experiments/progress/progress.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <sstream>

namespace bipo {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class FakeWorld {
 public:
  explicit FakeWorld(bool is_terminal) : is_terminal_(is_terminal) {}

  DisplayEnvironment environment() {
    return {is_terminal_, [this] { return columns; }, [this] { return now; }};
  }

  std::chrono::steady_clock::time_point now;
  std::size_t columns = 200;
  std::ostringstream out;

 private:
  bool is_terminal_;
};

StepProgress step_of(std::int64_t step, std::int64_t total) {
  StepProgress progress;
  progress.step = step;
  progress.total = total;
  progress.epoch = 1;
  progress.epochs = 3;
  progress.loss = 0.65432;
  progress.margin = 0.1234;
  progress.accuracy = 0.75;
  progress.grad_norm = 2.5;
  progress.vector_norm = 5.72;
  progress.residual_share = 0.0343;
  progress.lr = 5e-4;
  progress.pairs_per_second = 12.34;
  return progress;
}

std::size_t count(const std::string& text, char letter) {
  return static_cast<std::size_t>(std::count(text.begin(), text.end(), letter));
}

// What a terminal of unlimited height would show: '\r', '\b' and '\n' carried out.
std::vector<std::string> screen_of(const std::string& written) {
  std::vector<std::string> lines(1);
  std::size_t column = 0;
  for (const char letter : written) {
    if (letter == '\n') {
      lines.emplace_back();
      column = 0;
    } else if (letter == '\r') {
      column = 0;
    } else if (letter == '\b') {
      --column;
    } else {
      std::string& line = lines.back();
      line.resize(std::max(line.size(), column + 1), ' ');
      line[column++] = letter;
    }
  }
  for (std::string& line : lines) {
    line.erase(line.find_last_not_of(' ') + 1);
  }
  return lines;
}

TEST(StartTable, AlignsValuesAcrossGroups) {
  FakeWorld world(false);
  ProgressDisplay display(world.out, world.environment());
  display.start_table({{"model", {{"path", "m"}, {"hidden size", "576"}}},
                       {"text", {{"system", "first\nsecond"}}}});
  EXPECT_EQ(world.out.str(),
            "model\n"
            "  path         m\n"
            "  hidden size  576\n"
            "text\n"
            "  system       first\n"
            "               second\n");
}

TEST(PlainLines, ShowFirstLastAndOneInTenSeconds) {
  FakeWorld world(false);
  ProgressDisplay display(world.out, world.environment());
  for (std::int64_t done = 1; done <= 26; ++done) {
    display.phase("prefix", done, 26);
    world.now += seconds(1);
  }
  EXPECT_EQ(world.out.str(),
            "prefix 1/26\n"
            "prefix 11/26, ETA 0:15\n"
            "prefix 21/26, ETA 0:05\n"
            "prefix 26/26\n");
}

TEST(PlainLines, EachPhaseHasItsOwnFirstLine) {
  FakeWorld world(false);
  ProgressDisplay display(world.out, world.environment());
  display.phase("prefix", 1, 9);
  display.phase("prefix", 2, 9);
  display.phase("reference", 1, 9);
  EXPECT_EQ(world.out.str(), "prefix 1/9\nreference 1/9\n");
}

TEST(PlainLines, ShowEveryEndOfAnEpoch) {
  FakeWorld world(false);
  ProgressDisplay display(world.out, world.environment());
  for (std::int64_t step = 1; step <= 6; ++step) {
    StepProgress progress = step_of(step, 6);
    progress.ends_epoch = step % 2 == 0;
    display.step(progress);
  }
  EXPECT_EQ(count(world.out.str(), '\n'), 4U);  // steps 1, 2, 4, 6
  EXPECT_EQ(world.out.str().find("train 3/6"), std::string::npos);
}

TEST(PlainLines, CarryEveryFieldOfAStep) {
  FakeWorld world(false);
  ProgressDisplay display(world.out, world.environment());
  display.step(step_of(4, 10));
  EXPECT_EQ(world.out.str(),
            "train 4/10, epoch 2/3, loss 0.6543, acc 75%, margin 0.123, |v| 5.720 (3.43% of |h|), "
            "12.3 pairs/s, lr 5.00e-04, grad 2.5\n");
}

TEST(Bar, IsRedrawnAtMostTenTimesASecond) {
  FakeWorld world(true);
  ProgressDisplay display(world.out, world.environment());
  for (int report = 0; report < 1000; ++report) {
    display.phase("prefix", report + 1, 2000);
    world.now += milliseconds(1);
  }
  EXPECT_EQ(count(world.out.str(), '\r'), 10U);
  EXPECT_EQ(count(world.out.str(), '\n'), 0U);
}

TEST(Bar, LastStateIsDrawnAndStaysOnALineOfItsOwn) {
  FakeWorld world(true);
  ProgressDisplay display(world.out, world.environment());
  display.phase("prefix", 1, 2);
  display.phase("prefix", 2, 2);
  const std::vector<std::string> expected = {"prefix 2/2  [====================] 100%", ""};
  EXPECT_EQ(screen_of(world.out.str()), expected);
}

TEST(Bar, NeverFillsTheLastColumnAndKeepsTheImportantParts) {
  FakeWorld world(true);
  world.columns = 60;
  ProgressDisplay display(world.out, world.environment());
  display.step(step_of(40, 100));
  const auto screen = screen_of(world.out.str());
  ASSERT_EQ(screen.size(), 1U);
  EXPECT_LT(screen[0].size(), 60U);
  EXPECT_EQ(screen[0], "train 40/100  [========            ]  40%  epoch 2/3");
}

TEST(Bar, AShorterLineLeavesNothingOfTheLongerOne) {
  FakeWorld world(true);
  ProgressDisplay display(world.out, world.environment());
  display.step(step_of(1, 100));
  world.now += seconds(1);
  world.columns = 20;
  display.step(step_of(2, 100));
  EXPECT_EQ(screen_of(world.out.str()), std::vector<std::string>{"train 2/100"});
}

TEST(Bar, MessagesStandAboveIt) {
  FakeWorld world(true);
  ProgressDisplay display(world.out, world.environment());
  display.phase("prefix", 1, 4);
  display.message("saved");
  const std::vector<std::string> expected = {"saved", "prefix 1/4  [=====               ]  25%"};
  EXPECT_EQ(screen_of(world.out.str()), expected);
}

TEST(Bar, FinishLeavesItAndDestructionTakesItAway) {
  FakeWorld kept(true);
  FakeWorld removed(true);
  {
    ProgressDisplay display(kept.out, kept.environment());
    display.phase("prefix", 1, 4);
    display.finish();
    ProgressDisplay abandoned(removed.out, removed.environment());
    abandoned.phase("prefix", 1, 4);
  }
  EXPECT_EQ(screen_of(kept.out.str()).size(), 2U);
  EXPECT_EQ(screen_of(removed.out.str()), std::vector<std::string>{""});
}

TEST(RemainingTime, FollowsTheRecentSpeed) {
  FakeWorld world(false);
  ProgressDisplay display(world.out, world.environment());
  std::int64_t done = 0;
  // A slow start that the moving average forgets.
  for (int report = 0; report < 20; ++report) {
    display.phase("prefix", ++done, 10000);
    world.now += seconds(100);
  }
  for (int report = 0; report < 80; ++report) {
    display.phase("prefix", ++done, 10000);
    world.now += seconds(2);
  }
  world.out.str("");
  world.now += seconds(8);  // the report after this one is due for sure
  display.phase("prefix", ++done, 10000);
  // 63 intervals: 62 of 2 s and the last of 10 s, for the 9899 that remain.
  // 134 / 63 * 9899 = 21055.0 s = 5 h 50 min 55.02 s, rounded up.
  EXPECT_EQ(world.out.str(), "prefix 101/10000, ETA 5:50:56\n");
}

TEST(EmptyPhase, IsDoneAtOnce) {
  FakeWorld world(true);
  ProgressDisplay display(world.out, world.environment());
  display.phase("prefix", 0, 0);
  EXPECT_EQ(screen_of(world.out.str()).front(), "prefix 0/0  [====================] 100%");
}

TEST(StderrEnvironment, TakesTheWidthFromColumnsWhereThereIsNoTerminal) {
  const DisplayEnvironment environment = stderr_environment();
  if (environment.is_terminal) {
    EXPECT_GT(environment.columns(), 0U);
    return;
  }
  setenv("COLUMNS", "123", 1);
  EXPECT_EQ(environment.columns(), 123U);
  setenv("COLUMNS", "wide", 1);
  EXPECT_EQ(environment.columns(), 80U);
  unsetenv("COLUMNS");
  EXPECT_EQ(environment.columns(), 80U);
}

}  // namespace
}  // namespace bipo
