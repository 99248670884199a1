// Work on a sweep's directory taken under claims: what is free, what is done, what has failed.
#include "experiments/sweeps/sweep_queue.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/host_name.hpp"
#include "experiments/files/process_identity.hpp"
#include "experiments/runs/run_file.hpp"
#include "experiments/sweeps/pack_checkpoint.hpp"
#include "experiments/sweeps/sweep_directory.hpp"
#include "tests/experiments/sample_run.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

using Tasks = std::vector<std::size_t>;
using Statuses = std::vector<CellStatus>;

const auto kAny = [](const Pack&) { return true; };

Cell cell_named(const std::string& name) {
  Cell cell;
  cell.name = name;
  return cell;
}

// Pack "ab" of the cells a and b, and the lone cell c.
class SweepQueueTest : public ::testing::Test {
 protected:
  SweepQueueTest() {
    char name[] = "/tmp/sweep_queue_test.XXXXXX";
    directory_ = ::mkdtemp(name);
    plan_.cells = {cell_named("a"), cell_named("b"), cell_named("c")};
    plan_.packs = {{{plan_.cells[0], plan_.cells[1]}, "ab"}, {{plan_.cells[2]}, "c"}};
  }
  ~SweepQueueTest() override { fs::remove_all(directory_); }

  SweepQueue queue(bool retries_failed = false) const {
    return SweepQueue(directory_, plan_.packs, retries_failed);
  }

  RunRecord write_run(const std::string& cell, std::int64_t steps, RunStatus status) const {
    RunRecord record = sample_run(steps);
    record.attributes.status = status;
    write_run_file(directory_ / (cell + ".h5"), record);
    return record;
  }

  void commit(const std::vector<std::string>& cells, std::int64_t steps) const {
    PackCheckpoint checkpoint;
    for (const std::string& cell : cells) {
      checkpoint.names.push_back(cell);
      checkpoint.members.push_back(sample_run(steps).checkpoint);
    }
    write_pack_checkpoint(directory_ / "ab.checkpoint", checkpoint);
  }

  fs::path directory_;
  SweepPlan plan_;
};

TEST_F(SweepQueueTest, PacksAreTakenInOrderAndOnce) {
  SweepQueue mine = queue();
  SweepQueue other = queue();
  EXPECT_EQ(mine.free_tasks(), (Tasks{0, 1}));
  auto first = mine.take(kAny);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->task, 0U);
  EXPECT_EQ(first->progress.active, (Tasks{0, 1}));
  EXPECT_TRUE(first->progress.records.empty());
  EXPECT_EQ(other.free_tasks(), Tasks{1});
  auto second = other.take(kAny);
  ASSERT_TRUE(second);
  EXPECT_EQ(second->task, 1U);
  EXPECT_FALSE(mine.take(kAny));
  EXPECT_FALSE(other.take(kAny));
  EXPECT_FALSE(mine.may_come_free()) << "this process lives, so both owners do";

  mine.release(*first);
  EXPECT_TRUE(other.may_come_free());
  auto again = other.take(kAny);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->task, 0U);
}

TEST_F(SweepQueueTest, OnlyWantedPacksAreTaken) {
  SweepQueue mine = queue();
  const auto wants_c = [](const Pack& pack) { return pack.name == "c"; };
  auto taken = mine.take(wants_c);
  ASSERT_TRUE(taken);
  EXPECT_EQ(taken->task, 1U);
  EXPECT_FALSE(mine.take(wants_c));
}

TEST_F(SweepQueueTest, CompletePacksAreDone) {
  write_run("c", 4, RunStatus::kComplete);
  SweepQueue mine = queue();
  EXPECT_EQ(mine.free_tasks(), Tasks{0});
  write_run("a", 4, RunStatus::kComplete);
  write_run("b", 4, RunStatus::kRunning);
  commit({"a", "b"}, 3);
  auto taken = mine.take(kAny);
  ASSERT_TRUE(taken);
  EXPECT_EQ(taken->progress.active, (Tasks{0, 1})) << "both go back to the step they share";
  EXPECT_EQ(taken->progress.records[0].checkpoint.step, 3);
  EXPECT_EQ(taken->progress.records[1].steps.size(), 3U);
  mine.release(*taken);
  write_run("b", 4, RunStatus::kComplete);
  EXPECT_EQ(mine.free_tasks(), Tasks{});
  EXPECT_FALSE(mine.take(kAny));
  EXPECT_FALSE(mine.may_come_free());
}

TEST_F(SweepQueueTest, WhatAKilledOwnerLeftOfADonePackIsTakenAway) {
  const pid_t owner = fork();
  if (owner == 0) {
    const auto claim = Claim::take(directory_, "ab");
    raise(SIGKILL);
  }
  ASSERT_EQ(waitpid(owner, nullptr, 0), owner);
  ASSERT_TRUE(has_claim(directory_, "ab"));
  write_run("a", 4, RunStatus::kComplete);
  write_run("b", 4, RunStatus::kComplete);
  commit({"a", "b"}, 3);
  std::ofstream(directory_ / (".a.h5." + host_name() + "." + std::to_string(owner) + ".tmp"))
      << "a";
  EXPECT_EQ(queue().free_tasks(), Tasks{1});
  EXPECT_FALSE(has_claim(directory_, "ab"));
  std::set<std::string> files;
  for (const auto& entry : fs::directory_iterator(directory_)) {
    files.insert(entry.path().filename());
  }
  EXPECT_EQ(files, (std::set<std::string>{"a.h5", "b.h5", "claims"}));
}

TEST_F(SweepQueueTest, ALoneCellContinuesFromItsRunFile) {
  const RunRecord record = write_run("c", 5, RunStatus::kInterrupted);
  SweepQueue mine = queue();
  auto taken = mine.take([](const Pack& pack) { return pack.name == "c"; });
  ASSERT_TRUE(taken);
  ASSERT_EQ(taken->progress.records.size(), 1U);
  EXPECT_EQ(taken->progress.records[0].checkpoint.vector, record.checkpoint.vector);
  EXPECT_EQ(taken->progress.records[0].steps.size(), 5U);
}

TEST_F(SweepQueueTest, FailedCellsTakeNoPart) {
  write_failure(directory_, "a", "its loss is not finite");
  write_failure(directory_, "c", "no luck");
  write_run("b", 4, RunStatus::kRunning);
  commit({"b"}, 4);
  SweepQueue mine = queue();
  ASSERT_EQ(mine.free_tasks(), Tasks{0});
  auto taken = mine.take(kAny);
  ASSERT_TRUE(taken);
  EXPECT_EQ(taken->progress.active, Tasks{1});
  EXPECT_EQ(taken->progress.records.at(0).checkpoint.step, 4);
  mine.release(*taken);

  write_run("a", 6, RunStatus::kRunning);
  commit({"a", "b"}, 4);  // from before the failure
  taken = mine.take(kAny);
  ASSERT_TRUE(taken);
  EXPECT_EQ(taken->progress.active, Tasks{1});
}

TEST_F(SweepQueueTest, FailedCellsAreRetriedEachByItself) {
  write_failure(directory_, "a", "its loss is not finite");
  write_run("a", 2, RunStatus::kInterrupted);
  SweepQueue mine = queue(/*retries_failed=*/true);
  ASSERT_EQ(mine.tasks().size(), 3U);
  EXPECT_TRUE(mine.tasks()[2].is_retry);
  EXPECT_EQ(mine.tasks()[2].pack.name, "a");
  auto taken = mine.take([](const Pack& pack) { return pack.name == "a"; });
  ASSERT_TRUE(taken);
  EXPECT_EQ(taken->progress.active, Tasks{0});
  EXPECT_EQ(taken->progress.records.at(0).checkpoint.step, 2);
}

TEST_F(SweepQueueTest, ACheckpointWithoutARunFileIsSetAside) {
  write_run("b", 2, RunStatus::kRunning);
  commit({"a", "b"}, 2);
  SweepQueue mine = queue();
  EXPECT_EQ(mine.free_tasks(), (Tasks{0, 1}));
  auto taken = mine.take(kAny);
  ASSERT_TRUE(taken);
  EXPECT_EQ(taken->problem, "");
  ASSERT_EQ(taken->notes.size(), 1U);
  testing::expect_parts(taken->notes[0], {"a.h5: missing", "ab.checkpoint.damaged"});
  EXPECT_EQ(taken->progress.active, (Tasks{0, 1}));
  EXPECT_TRUE(taken->progress.records.empty());
  EXPECT_TRUE(fs::exists(directory_ / "ab.checkpoint.damaged"));
  EXPECT_TRUE(fs::exists(directory_ / "b.h5"));
}

TEST_F(SweepQueueTest, DamagedFilesAreSetAsideEachUnderANewName) {
  for (const char* name : {"c.h5.damaged", "c.h5.damaged.3"}) {
    for (const char* content : {"first", "second"}) {
      std::ofstream(directory_ / "c.h5") << content;
      SweepQueue mine = queue();
      auto taken = mine.take([](const Pack& pack) { return pack.name == "c"; });
      ASSERT_TRUE(taken);
      EXPECT_EQ(taken->notes.size(), 1U);
      EXPECT_EQ(taken->progress.active, Tasks{0});
      EXPECT_FALSE(fs::exists(directory_ / "c.h5"));
      mine.release(*taken);
    }
    EXPECT_TRUE(fs::exists(directory_ / name));
  }
}

TEST_F(SweepQueueTest, APackGivenUpIsLeftToOthers) {
  SweepQueue mine = queue();
  auto taken = mine.take(kAny);
  ASSERT_TRUE(taken);
  mine.give_up(*taken);
  EXPECT_EQ(mine.free_tasks(), Tasks{1});
  EXPECT_EQ(queue().free_tasks(), (Tasks{0, 1}));
}

TEST_F(SweepQueueTest, AnOwnersUnfinishedWritesAreNoError) {
  SweepQueue owner = queue();
  auto taken = owner.take(kAny);
  ASSERT_TRUE(taken);
  commit({"a", "b"}, 2);  // before the run files
  SweepQueue other = queue();
  EXPECT_EQ(other.free_tasks(), Tasks{1});
}

TEST_F(SweepQueueTest, StatusOfEveryCell) {
  SweepMonitor monitor(directory_, plan_);
  EXPECT_EQ(monitor.look(),
            (Statuses{CellStatus::kMissing, CellStatus::kMissing, CellStatus::kMissing}));
  write_run("a", 1, RunStatus::kRunning);
  write_failure(directory_, "b", "no luck");
  EXPECT_EQ(monitor.look(),
            (Statuses{CellStatus::kInterrupted, CellStatus::kFailed, CellStatus::kMissing}));
  SweepQueue mine = queue();
  auto taken = mine.take(kAny);
  ASSERT_TRUE(taken);
  write_run("c", 1, RunStatus::kComplete);
  EXPECT_EQ(monitor.look(),
            (Statuses{CellStatus::kRunning, CellStatus::kFailed, CellStatus::kComplete}));
  std::ofstream(directory_ / "a.h5") << "damaged";
  mine.release(*taken);
  EXPECT_EQ(monitor.look(),
            (Statuses{CellStatus::kInterrupted, CellStatus::kFailed, CellStatus::kComplete}));
}

}  // namespace
}  // namespace bipo
