// When a pack is committed to a step: rounds of saves and what they leave on disk.
#include "experiments/sweep_run/pack_observer.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

using Names = std::vector<std::string>;

// At this step; its numbers say whose it is.
Checkpoint state(std::int64_t step, std::uint64_t seed = 1) {
  Checkpoint checkpoint;
  checkpoint.vector = {static_cast<float>(seed), 2};
  checkpoint.exp_avg = {3, 4};
  checkpoint.exp_avg_sq = {5, 6};
  checkpoint.step = step;
  checkpoint.seed = seed;
  return checkpoint;
}

// Files of this process end at so many bytes.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;
  ~FileSizeLimit() { setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_{};
};

class PackSaverTest : public ::testing::Test {
 protected:
  PackSaverTest()
      : directory_(fs::path(::testing::TempDir()) / ("bipo-saver-" + std::to_string(getpid()))),
        path_(directory_ / "pack.h5"),
        display_(out_, {false,
                        [] {
                          return TerminalSize{80, 24};
                        },
                        [] { return std::chrono::steady_clock::time_point(); }}) {
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
  ~PackSaverTest() override { fs::remove_all(directory_); }

  PackSaver saver(std::set<std::string> active, ReplaceGuard may_replace = {}) {
    const std::size_t size = active.size();
    return PackSaver(path_, size, std::move(active), std::move(may_replace), display_);
  }

  // The step to which the pack is committed.
  std::optional<std::int64_t> committed() const {
    if (!fs::exists(path_)) {
      return std::nullopt;
    }
    return read_pack_checkpoint(path_).members.front().step;
  }

  Names names() const { return read_pack_checkpoint(path_).names; }

  const fs::path directory_;
  const fs::path path_;
  std::ostringstream out_;
  ProgressDisplay display_;
};

TEST_F(PackSaverTest, CommitsWhenTheLastMemberHoldsTheStep) {
  PackSaver pack = saver({"a", "b", "c"});
  pack.after_save("a", state(5, 1), RunStatus::kRunning);
  pack.after_save("b", state(5, 2), RunStatus::kRunning);
  EXPECT_EQ(committed(), std::nullopt);
  pack.after_save("c", state(5, 3), RunStatus::kRunning);
  EXPECT_EQ(committed(), 5);
  EXPECT_EQ(names(), (Names{"a", "b", "c"}));
  const PackCheckpoint checkpoint = read_pack_checkpoint(path_);
  for (std::uint64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(checkpoint.members[i].seed, i + 1);
    EXPECT_EQ(checkpoint.members[i].vector[0], static_cast<float>(i + 1));
  }
}

TEST_F(PackSaverTest, EachRoundCommitsItsStep) {
  PackSaver pack = saver({"a", "b"});
  for (const std::int64_t step : {5, 8}) {
    pack.after_save("a", state(step), RunStatus::kRunning);
    pack.after_save("b", state(step), RunStatus::kRunning);
    EXPECT_EQ(committed(), step);
  }
}

TEST_F(PackSaverTest, AMemberWhoseFileLacksTheStepKeepsTheFormerCommit) {
  PackSaver pack = saver({"a", "b"});
  pack.after_save("a", state(5), RunStatus::kRunning);
  pack.after_save("b", state(5), RunStatus::kRunning);
  pack.after_save("a", state(8), RunStatus::kRunning);
  pack.after_save("b", std::nullopt, RunStatus::kRunning);
  EXPECT_EQ(committed(), 5);
  pack.after_save("a", std::nullopt, RunStatus::kRunning);
  pack.after_save("b", state(9), RunStatus::kRunning);
  EXPECT_EQ(committed(), 5);
  pack.after_save("a", state(11), RunStatus::kRunning);
  pack.after_save("b", state(11), RunStatus::kRunning);
  EXPECT_EQ(committed(), 11);
}

// A round that was cut off is not counted.
TEST_F(PackSaverTest, ANewRoundForgetsTheOneUnderWay) {
  PackSaver pack = saver({"a", "b"});
  pack.after_save("a", state(5), RunStatus::kRunning);
  pack.after_save("a", state(8), RunStatus::kRunning);
  EXPECT_EQ(committed(), std::nullopt);
  pack.after_save("b", state(8), RunStatus::kRunning);
  EXPECT_EQ(committed(), 8);
}

TEST_F(PackSaverTest, WithoutADroppedMemberTheOthersCommit) {
  PackSaver pack = saver({"a", "b", "c"});
  pack.after_save("a", state(5), RunStatus::kRunning);
  pack.drop("b");
  pack.after_save("a", state(8), RunStatus::kRunning);
  EXPECT_EQ(committed(), std::nullopt);
  pack.after_save("c", state(8), RunStatus::kRunning);
  EXPECT_EQ(committed(), 8);
  EXPECT_EQ(names(), (Names{"a", "c"}));
}

// A pack of two stays one: what is left of it is committed as well.
TEST_F(PackSaverTest, TheLastOneLeftCommitsByItself) {
  PackSaver pack = saver({"a", "b"});
  pack.drop("a");
  pack.after_save("b", state(5), RunStatus::kRunning);
  EXPECT_EQ(committed(), 5);
  EXPECT_EQ(names(), Names{"b"});
}

TEST_F(PackSaverTest, ACompletePackNeedsNoCheckpoint) {
  PackSaver pack = saver({"a", "b"});
  pack.after_save("a", state(5), RunStatus::kRunning);
  pack.after_save("b", state(5), RunStatus::kRunning);
  pack.after_save("a", state(8), RunStatus::kComplete);
  EXPECT_EQ(committed(), 5);
  pack.after_save("b", state(8), RunStatus::kComplete);
  EXPECT_EQ(committed(), std::nullopt);
  EXPECT_EQ(out_.str(), "");
}

TEST_F(PackSaverTest, AnEndThatIsNotSavedKeepsTheCheckpoint) {
  PackSaver pack = saver({"a", "b"});
  pack.after_save("a", state(5), RunStatus::kRunning);
  pack.after_save("b", state(5), RunStatus::kRunning);
  pack.after_save("a", state(8), RunStatus::kComplete);
  pack.after_save("b", std::nullopt, RunStatus::kComplete);
  EXPECT_EQ(committed(), 5);
}

TEST_F(PackSaverTest, AProcessThatLostItsClaimChangesNothing) {
  bool is_ours = true;
  PackSaver pack = saver({"a", "b"}, [&] { return is_ours; });
  pack.after_save("a", state(5), RunStatus::kRunning);
  pack.after_save("b", state(5), RunStatus::kRunning);
  is_ours = false;
  for (const RunStatus status : {RunStatus::kRunning, RunStatus::kComplete}) {
    pack.after_save("a", state(8), status);
    pack.after_save("b", state(8), status);
    EXPECT_EQ(committed(), 5);
  }
}

TEST_F(PackSaverTest, ACommitThatFailsInMidRunIsReportedAndKeepsTheFormerOne) {
  PackSaver pack = saver({"a", "b"});
  pack.after_save("a", state(5), RunStatus::kRunning);
  pack.after_save("b", state(5), RunStatus::kRunning);
  {
    const FileSizeLimit full(100);
    pack.after_save("a", state(8), RunStatus::kRunning);
    EXPECT_NO_THROW(pack.after_save("b", state(8), RunStatus::kRunning));
  }
  testing::expect_parts(out_.str(), {"warning: not saved", path_.string()});
  EXPECT_EQ(committed(), 5);
  pack.after_save("a", state(11), RunStatus::kRunning);
  pack.after_save("b", state(11), RunStatus::kRunning);
  EXPECT_EQ(committed(), 11);
}

TEST_F(PackSaverTest, ALastCommitThatFailsIsRememberedUntilOneSucceeds) {
  PackSaver pack = saver({"a", "b"});
  fs::create_directories(path_ / "occupied");
  pack.after_save("a", state(5), RunStatus::kInterrupted);
  EXPECT_EQ(pack.failure(), "");
  pack.after_save("b", state(5), RunStatus::kInterrupted);
  testing::expect_parts(pack.failure(), {"not saved", path_.string()});
  fs::remove_all(path_);
  pack.after_save("a", state(5), RunStatus::kInterrupted);
  pack.after_save("b", state(5), RunStatus::kInterrupted);
  EXPECT_EQ(pack.failure(), "");
  EXPECT_EQ(committed(), 5);
}

TEST_F(PackSaverTest, ACheckpointThatCannotBeRemovedIsReported) {
  PackSaver pack = saver({"a", "b"});
  fs::create_directories(path_ / "occupied");
  pack.after_save("a", state(5), RunStatus::kComplete);
  pack.after_save("b", state(5), RunStatus::kComplete);
  testing::expect_parts(out_.str(), {"warning: ", path_.string(), "cannot be removed"});
}

TEST_F(PackSaverTest, APackOfOneMemberWritesNone) {
  PackSaver pack = saver({"a"});
  pack.after_save("a", state(5), RunStatus::kRunning);
  pack.after_save("a", state(8), RunStatus::kInterrupted);
  EXPECT_EQ(committed(), std::nullopt);
}

// One of two continues after the other ended: the pack is still of two.
TEST_F(PackSaverTest, ThePacksSizeCountsNotThatOfItsActiveMembers) {
  PackSaver pack(path_, 2, {"b"}, {}, display_);
  pack.after_save("b", state(5), RunStatus::kRunning);
  EXPECT_EQ(committed(), 5);
}

}  // namespace
}  // namespace bipo
