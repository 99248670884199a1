// What a run does where another job has taken its claim, and its file, over.
#include "experiments/training/run_observer.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <utility>

#include "tests/experiments/sample_run.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

class RunObserverTest : public ::testing::Test {
 protected:
  RunObserverTest()
      : directory_(fs::path(::testing::TempDir()) / ("bipo-observer-" + std::to_string(getpid()))),
        display_(shown_, {false,
                          [] {
                            return TerminalSize{80, 24};
                          },
                          [] { return std::chrono::steady_clock::time_point(); }}) {
    fs::remove_all(directory_);
    fs::create_directories(directory_ / "rescue");
  }
  ~RunObserverTest() override { fs::remove_all(directory_); }

  fs::path out() const { return directory_ / "run.h5"; }

  RunObserver observer(ReplaceGuard may_replace) {
    RunObserver::Context context;
    context.out = out();
    context.attributes = sample_attributes();
    context.may_replace = std::move(may_replace);
    context.rescue_dir = directory_ / "rescue";
    return RunObserver(std::move(context), display_);
  }

  void write_theirs() const { std::ofstream(out()) << "theirs"; }

  std::string content() const {
    std::ifstream file(out());
    return {std::istreambuf_iterator<char>(file), {}};
  }

  const fs::path directory_;
  std::ostringstream shown_;
  ProgressDisplay display_;
};

// The other job acts between the question whether the claim is still held and what follows it.
TEST_F(RunObserverTest, LeavesTheFileOfAJobThatTakesOverDuringASave) {
  int answers = 0;
  RunObserver run = observer([&] {
    write_theirs();
    return answers++ == 0;
  });
  run.save(sample_run(3), RunStatus::kRunning);
  EXPECT_EQ(answers, 2);
  EXPECT_TRUE(run.is_superseded());
  EXPECT_TRUE(run.stop_requested());
  EXPECT_EQ(run.failure(), "");
  EXPECT_EQ(content(), "theirs");
  EXPECT_TRUE(fs::is_empty(directory_ / "rescue"));
}

TEST_F(RunObserverTest, KeepsTheStateWhereAnotherFileIsInTheWayOfAHeldClaim) {
  RunObserver run = observer([] { return true; });
  write_theirs();
  run.save(sample_run(3), RunStatus::kRunning);
  EXPECT_FALSE(run.is_superseded());
  EXPECT_NE(run.failure().find("another process wrote this file"), std::string::npos)
      << run.failure();
  EXPECT_EQ(content(), "theirs");
  EXPECT_FALSE(fs::is_empty(directory_ / "rescue"));
}

}  // namespace
}  // namespace bipo
