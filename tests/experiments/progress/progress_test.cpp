// What the progress display writes, with a clock and a terminal that the test moves.
#include "experiments/progress/progress.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

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
    return {is_terminal_,
            [this] {
              return TerminalSize{columns, rows};
            },
            [this] { return now; }, has_colours, moves_cursor};
  }

  std::chrono::steady_clock::time_point now;
  std::size_t columns = 200;
  std::size_t rows = 24;
  bool has_colours = false;
  bool moves_cursor = false;
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

// What a terminal of unlimited height would show: '\r', '\b', '\n', "cursor up" and "clear what is
// below" carried out.
std::vector<std::string> screen_of(const std::string& written) {
  std::vector<std::string> lines(1);
  std::size_t row = 0;
  std::size_t column = 0;
  for (std::size_t i = 0; i < written.size(); ++i) {
    const char letter = written[i];
    if (letter == '\033') {
      const std::size_t end = written.find_first_not_of("[0123456789", i + 1);
      if (written.at(end) == 'A') {
        row -= std::stoul(written.substr(i + 2));
      } else {
        EXPECT_EQ(written.substr(i, 3), "\033[J");
        lines[row].resize(std::min(lines[row].size(), column));
        lines.resize(row + 1);
      }
      i = end;
    } else if (letter == '\n') {
      ++row;
      lines.resize(std::max(lines.size(), row + 1));
      column = 0;
    } else if (letter == '\r') {
      column = 0;
    } else if (letter == '\b') {
      --column;
    } else {
      std::string& line = lines[row];
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

TEST(PlainLines, ShowAStepByFallingImportanceInEightyColumns) {
  FakeWorld world(false);
  ProgressDisplay display(world.out, world.environment());
  display.step(step_of(4, 10));
  EXPECT_EQ(world.out.str(),
            "train 4/10, epoch 2/3, loss 0.6543, margin 0.123, |v| 3.43%, acc 75%\n");
}

TEST(PlainLines, OfALongRunKeepLossMarginAndLength) {
  FakeWorld world(false);
  ProgressDisplay display(world.out, world.environment());
  StepProgress progress = step_of(1000, 20000);
  progress.epochs = 20;
  progress.margin = -1.7154;
  display.step(progress);
  world.now += seconds(5000);
  progress.step = 2000;
  display.step(progress);
  EXPECT_EQ(world.out.str().substr(world.out.str().find('\n') + 1),
            "train 2000/20000, ETA 25:00:00, epoch 2/20, loss 0.6543, margin -1.715\n");
}

TEST(PlainLines, NeverHaveMoreThanEightyBytes) {
  FakeWorld world(false);
  ProgressDisplay display(world.out, world.environment());
  for (std::int64_t step = 1; step < 1'000'000'000; step *= 3) {
    StepProgress progress = step_of(step, 1'000'000'000);
    progress.margin = -static_cast<double>(step);
    progress.loss = 1e7;
    display.step(progress);
    world.now += seconds(11);
  }
  std::istringstream lines(world.out.str());
  for (std::string line; std::getline(lines, line);) {
    EXPECT_LE(line.size(), 80U) << line;
  }
}

TEST(Lines, BreakBeforeAPartThatDoesNotFit) {
  EXPECT_EQ(in_lines("start:", {"one", "two"}), "start:  one  two");
  const std::string part(35, 'x');
  EXPECT_EQ(in_lines("start:", {part, part, part}),
            "start:  " + part + "  " + part + "\n    " + part);
  EXPECT_EQ(in_lines(std::string(75, 's'), {"abc", "d"}), std::string(75, 's') + "  abc\n    d");
}

TEST(Style, BarIsDrawnWithoutATerminalWhereItIsAskedFor) {
  FakeWorld world(false);
  ProgressDisplay display(world.out, world.environment(), {ProgressStyle::kBar, false});
  display.phase("prefix", 1, 2);
  display.phase("prefix", 2, 2);
  const std::vector<std::string> expected = {"prefix 2/2  [====================] 100%", ""};
  EXPECT_EQ(screen_of(world.out.str()), expected);
}

TEST(Style, LinesArePrintedOnATerminalWhereTheyAreAskedFor) {
  FakeWorld world(true);
  ProgressDisplay display(world.out, world.environment(), {ProgressStyle::kLines, false});
  display.phase("prefix", 1, 2);
  EXPECT_EQ(world.out.str(), "prefix 1/2\n");
}

TEST(Style, NoneKeepsMessagesOnly) {
  FakeWorld world(true);
  ProgressDisplay display(world.out, world.environment(), {ProgressStyle::kNone, false});
  display.start_table({{"model", {{"path", "m"}}}});
  display.phase("prefix", 1, 2);
  display.step(step_of(10, 10));
  display.message("said");
  EXPECT_EQ(world.out.str(), "model\n  path  m\nsaid\n");
}

TEST(Style, QuietKeepsWarningsAndFailuresOnly) {
  FakeWorld world(true);
  ProgressDisplay display(world.out, world.environment(), {ProgressStyle::kBar, true});
  display.start_table({{"model", {{"path", "m"}}}});
  display.phase("prefix", 1, 2);
  display.message("said");
  display.warn("odd");
  display.problem("cell: why");
  EXPECT_EQ(world.out.str(), "warning: odd\nfailed: cell: why\n");
}

TEST(Style, OtherRanksAreSilent) {
  FakeWorld world(true);
  ProgressDisplay display(world.out, world.environment(), {}, false);
  display.warn("odd");
  display.problem("cell: why");
  display.phase("prefix", 1, 2);
  EXPECT_EQ(world.out.str(), "");
}

TEST(Colours, MarkWarningsAndFailures) {
  FakeWorld world(true);
  world.has_colours = true;
  ProgressDisplay display(world.out, world.environment());
  display.warn("odd");
  display.problem("cell: why");
  EXPECT_EQ(world.out.str(), "\033[33mwarning:\033[0m odd\n\033[31mfailed:\033[0m cell: why\n");
}

TEST(Share, OfTheWorkIsAPercentage) {
  FakeWorld world(false);
  ProgressDisplay display(world.out, world.environment());
  display.share("evaluate", 0, 400, "held-out pairs");
  world.now += seconds(30);
  display.share("evaluate", 100, 400, "held-out pairs");
  world.now += seconds(90);
  display.share("evaluate", 400, 400, "neutral prompts");
  EXPECT_EQ(world.out.str(),
            "evaluate 0%, held-out pairs\n"
            "evaluate 25%, ETA 1:30, held-out pairs\n"
            "evaluate 100%, neutral prompts\n");
}

TEST(Share, OfTheWorkIsABarOnATerminal) {
  FakeWorld world(true);
  ProgressDisplay display(world.out, world.environment());
  display.share("evaluate", 0, 400, "held-out pairs");
  world.now += seconds(30);
  display.share("evaluate", 100, 400, "held-out pairs");
  EXPECT_EQ(screen_of(world.out.str()).front(),
            "evaluate  [=====               ]  25%  ETA 1:30  held-out pairs");
}

TEST(Board, StandsAboveTheBarAndBelowMessages) {
  FakeWorld world(true);
  world.moves_cursor = true;
  ProgressDisplay display(world.out, world.environment());
  ASSERT_TRUE(display.has_board());
  display.board({{"first"}, {"second"}});
  display.phase("prefix", 1, 4);
  display.message("saved");
  display.board({{"third"}});
  const std::vector<std::string> expected = {"saved", "third",
                                             "prefix 1/4  [=====               ]  25%"};
  EXPECT_EQ(screen_of(world.out.str()), expected);
}

TEST(Board, StaysBelowAPhaseThatEnds) {
  FakeWorld world(true);
  world.moves_cursor = true;
  ProgressDisplay display(world.out, world.environment());
  display.board({{"cells"}});
  display.phase("prefix", 2, 2);
  display.phase("train", 1, 4);
  const std::vector<std::string> expected = {"prefix 2/2  [====================] 100%", "cells",
                                             "train 1/4  [=====               ]  25%"};
  EXPECT_EQ(screen_of(world.out.str()), expected);
}

TEST(Board, IsGoneInTheEnd) {
  FakeWorld world(true);
  world.moves_cursor = true;
  {
    ProgressDisplay display(world.out, world.environment());
    display.board({{"cells"}});
    display.phase("train", 1, 4);
  }
  EXPECT_EQ(screen_of(world.out.str()), std::vector<std::string>{""});
}

TEST(Board, FitsTheTerminal) {
  FakeWorld world(true);
  world.moves_cursor = true;
  world.columns = 5;
  world.rows = 4;
  ProgressDisplay display(world.out, world.environment());
  display.board({{"abcdef"}, {"abc\u00e4"}, {"third"}});
  const std::vector<std::string> expected = {"abcd", "abc", ""};
  EXPECT_EQ(screen_of(world.out.str()), expected) << "no half characters, two lines left";
}

TEST(Board, NeedsABarAndACursorThatMoves) {
  FakeWorld plain(true);
  FakeWorld file(false);
  file.moves_cursor = true;
  for (FakeWorld* world : {&plain, &file}) {
    ProgressDisplay display(world->out, world->environment());
    EXPECT_FALSE(display.has_board());
    display.board({{"cells"}});
    EXPECT_EQ(world->out.str(), "");
  }
  ProgressDisplay forced(file.out, file.environment(), {ProgressStyle::kBar, false});
  EXPECT_TRUE(forced.has_board());
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

TEST(DisplaySize, IsThatOfATerminal) {
  int master = -1;
  int terminal = -1;
  winsize size{};
  size.ws_col = 97;
  size.ws_row = 31;
  ASSERT_EQ(openpty(&master, &terminal, nullptr, nullptr, &size), 0);
  setenv("COLUMNS", "123", 1);
  EXPECT_EQ(display_size(terminal).columns, 97U);
  EXPECT_EQ(display_size(terminal).rows, 31U);
  unsetenv("COLUMNS");
  close(terminal);
  close(master);
}

TEST(DisplaySize, TakesTheWidthFromColumnsWhereThereIsNoTerminal) {
  const int nowhere = open("/dev/null", O_RDWR | O_CLOEXEC);
  ASSERT_GE(nowhere, 0);
  setenv("COLUMNS", "123", 1);
  EXPECT_EQ(display_size(nowhere).columns, 123U);
  unsetenv("COLUMNS");
  // The terminal that the test was started from, if any, has its own.
  const int own = open("/dev/tty", O_RDONLY | O_NOCTTY | O_CLOEXEC);
  winsize size{};
  const bool has_size = own >= 0 && ioctl(own, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  const std::size_t expected = has_size ? size.ws_col : 80;
  EXPECT_EQ(display_size(nowhere).columns, expected);
  setenv("COLUMNS", "wide", 1);
  EXPECT_EQ(display_size(nowhere).columns, expected);
  unsetenv("COLUMNS");
  if (own >= 0) {
    close(own);
  }
  close(nowhere);
}

TEST(ShowsColours, OnATerminalUnlessTheUserWantsNone) {
  int master = -1;
  int terminal = -1;
  ASSERT_EQ(openpty(&master, &terminal, nullptr, nullptr, nullptr), 0);
  const int nowhere = open("/dev/null", O_RDWR | O_CLOEXEC);
  unsetenv("NO_COLOR");
  setenv("TERM", "xterm", 1);
  EXPECT_TRUE(shows_colours(terminal));
  EXPECT_FALSE(shows_colours(nowhere));
  setenv("NO_COLOR", "", 1);
  EXPECT_TRUE(shows_colours(terminal));
  setenv("NO_COLOR", "1", 1);
  EXPECT_FALSE(shows_colours(terminal));
  unsetenv("NO_COLOR");
  setenv("TERM", "dumb", 1);
  EXPECT_FALSE(shows_colours(terminal));
  unsetenv("TERM");
  EXPECT_FALSE(shows_colours(terminal));
  close(nowhere);
  close(terminal);
  close(master);
}

}  // namespace
}  // namespace bipo
