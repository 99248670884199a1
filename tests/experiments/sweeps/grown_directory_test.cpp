// A sweep's directory whose plan several processes extend at once, or are killed over.
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "experiments/sweeps/stored_plan.hpp"
#include "experiments/sweeps/sweep_directory.hpp"
#include "experiments/sweeps/sweep_plan.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::expect_parts;

double cost_of_a_cell(const Cell& cell) {
  return static_cast<double>(20 - cell.layer);
}

std::vector<Pack> pack_pairs_of_cells(const std::vector<Cell>& cells) {
  return make_packs(
      cells, [](const Cell&) { return 2; }, cost_of_a_cell);
}

// The sweep over layers 1 to `last` with the given number of seeds.
SweepPlan sweep_over(std::int64_t last, std::uint64_t seeds) {
  SweepAxes axes;
  axes.models = {{"m", "models/m"}};
  axes.data = {{"d", "d.csv", ""}};
  axes.layers = {{1, last, 1}};
  axes.seeds.clear();
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    axes.seeds.push_back(seed);
  }
  SweepPlan plan;
  plan.settings = R"({"lr_unit":"residual"})";
  plan.cells = expand(axes, {20});
  plan.packs = pack_pairs_of_cells(plan.cells);
  return plan;
}

class GrownDirectory : public ::testing::Test {
 protected:
  GrownDirectory() {
    char name[] = "/tmp/grown_directory_test.XXXXXX";
    root_ = ::mkdtemp(name);
    sweep_ = root_ / "sweep";
  }
  ~GrownDirectory() override { fs::remove_all(root_); }

  std::string begin(const SweepPlan& plan) const {
    return begin_sweep_directory(sweep_, plan, pack_pairs_of_cells);
  }

  std::string text() const {
    std::ifstream stream(plan_path(sweep_), std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }

  // Nothing but the plan is there, no claim on it, and every cell is in one pack.
  void expect_whole(const SweepPlan& plan, std::int64_t revision) const {
    const auto json = nlohmann::json::parse(text());
    EXPECT_EQ(json.value("revision", 1), revision);
    std::multiset<std::string> members;
    for (const auto& pack : json["packs"]) {
      members.insert(pack["members"].begin(), pack["members"].end());
    }
    std::multiset<std::string> cells;
    for (const Cell& cell : plan.cells) {
      cells.insert(cell.name);
    }
    EXPECT_EQ(members, cells);
    for (const auto& entry : fs::directory_iterator(sweep_)) {
      EXPECT_TRUE(entry.path().filename() == "plan.json" || entry.path().filename() == "claims")
          << entry.path();
    }
    // A killed taker may have left a temp file, which goes when it is old.
    for (const auto& entry : fs::directory_iterator(sweep_ / "claims")) {
      EXPECT_NE(entry.path().extension(), ".json") << entry.path();
    }
  }

  static pid_t start(const std::function<void()>& work) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      try {
        work();
      } catch (const std::exception&) {
        ::_exit(1);
      }
      ::_exit(0);
    }
    return pid;
  }

  fs::path root_;
  fs::path sweep_;
};

TEST_F(GrownDirectory, BeginsAsItsPlanAndGrows) {
  const SweepPlan first = sweep_over(2, 2);
  EXPECT_EQ(begin(first), plan_to_json(first));
  EXPECT_EQ(text(), plan_to_json(first));
  const SweepPlan second = sweep_over(3, 2);
  const DirectoryPlan planned = check_sweep_directory(sweep_, second, pack_pairs_of_cells);
  EXPECT_EQ(planned.fit.added.size(), 2U);
  EXPECT_EQ(text(), plan_to_json(first)) << "looking changes nothing";
  begin(second);
  expect_whole(second, 2);
  EXPECT_EQ(begin(second), text());
  EXPECT_EQ(begin(first), text()) << "an earlier revision adds nothing";
  expect_whole(second, 2);
}

TEST_F(GrownDirectory, APlanThatLacksCellsIsRefused) {
  begin(sweep_over(3, 2));
  const std::string before = text();
  expect_parts(error_of<UserError>([&] { begin(sweep_over(3, 1)); }), {"3 cells less"});
  EXPECT_EQ(text(), before);
}

TEST_F(GrownDirectory, ManyThatAddTheSameMakeOneRevision) {
  begin(sweep_over(2, 2));
  const SweepPlan grown = sweep_over(4, 3);
  std::vector<pid_t> jobs;
  for (int i = 0; i < 6; ++i) {
    jobs.push_back(start([&] { begin(grown); }));
  }
  for (const pid_t job : jobs) {
    int status = 0;
    ASSERT_EQ(::waitpid(job, &status, 0), job);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  begin(grown);
  expect_whole(grown, 2);
}

TEST_F(GrownDirectory, ManyThatAddMoreAndMoreLoseNothing) {
  begin(sweep_over(2, 1));
  std::vector<pid_t> jobs;
  for (std::int64_t last = 3; last < 9; ++last) {
    jobs.push_back(start([&] { begin(sweep_over(last, 1)); }));
  }
  for (const pid_t job : jobs) {
    int status = 0;
    ASSERT_EQ(::waitpid(job, &status, 0), job);
    // One that comes after a larger sweep lacks cells of it, and is refused.
    EXPECT_TRUE(WIFEXITED(status)) << "the last of them is never refused";
  }
  begin(sweep_over(8, 1));
  const auto json = nlohmann::json::parse(text());
  expect_whole(sweep_over(8, 1), json["revision"].get<std::int64_t>());
}

// Killed at any moment of the extension, the plan is the old or the new one, and the next start
// goes on from there at once.
TEST_F(GrownDirectory, AKillLeavesAWholePlan) {
  const SweepPlan first = sweep_over(4, 3);
  const SweepPlan second = sweep_over(12, 3);
  int old_plans = 0;
  constexpr int kKills = 60;
  for (int kill = 0; kill < kKills; ++kill) {
    fs::remove_all(sweep_);
    begin(first);
    const pid_t job = start([&] { begin(second); });
    std::this_thread::sleep_for(std::chrono::microseconds(150 * kill));
    ::kill(job, SIGKILL);
    ::waitpid(job, nullptr, 0);
    const bool is_old = text() == plan_to_json(first);
    old_plans += is_old ? 1 : 0;
    if (!is_old) {
      EXPECT_EQ(fit_plan(text(), second, "plan.json").added, std::vector<std::string>());
    }
    begin(second);
    expect_whole(second, 2);
  }
  EXPECT_GT(old_plans, 0) << "no kill came before the extension";
}

// The same for a first start.
TEST_F(GrownDirectory, AKilledFirstStartIsNoOtherFile) {
  const SweepPlan plan = sweep_over(12, 3);
  for (int kill = 0; kill < 20; ++kill) {
    fs::remove_all(sweep_);
    const pid_t job = start([&] { begin(plan); });
    std::this_thread::sleep_for(std::chrono::microseconds(200 * kill));
    ::kill(job, SIGKILL);
    ::waitpid(job, nullptr, 0);
    EXPECT_NO_THROW(check_sweep_directory(sweep_, plan, pack_pairs_of_cells));
    begin(plan);
    expect_whole(plan, 1);
  }
}

}  // namespace
}  // namespace bipo
