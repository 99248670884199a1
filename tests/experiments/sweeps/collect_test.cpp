// Collecting sweeps in every state they can be in; the figures are checked in collect_test.py.
#include "experiments/sweeps/collect.hpp"

#include <gtest/gtest.h>
#include <hdf5.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "experiments/files/hdf5.hpp"
#include "experiments/sweeps/claims.hpp"
#include "experiments/sweeps/stored_plan.hpp"
#include "experiments/sweeps/sweep_directory.hpp"
#include "tests/experiments/sample_run.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;
using bipo::testing::error_of;
using bipo::testing::expect_parts;

using Names = std::vector<std::string>;

std::string text_of(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

void write_text(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::string cell_name(int layer) {
  return "layer" + std::to_string(layer) + "-seed11";
}

// A cell for each layer; `packs` gives their layers.
std::string plan_text(const std::vector<std::vector<int>>& packs) {
  nlohmann::json plan = {{"schema_version", 1},
                         {"settings", {{"weight_decay", 0.25}}},
                         {"vectors_per_pass", 2},
                         {"cells", nlohmann::json::array()},
                         {"packs", nlohmann::json::array()}};
  for (const std::vector<int>& pack : packs) {
    nlohmann::json members = nlohmann::json::array();
    for (const int layer : pack) {
      plan["cells"].push_back({{"name", cell_name(layer)},
                               {"model", "tiny"},
                               {"data", "pairs"},
                               {"layer", layer},
                               {"seed", 11},
                               {"lr", 0.5},
                               {"beta", 0.1},
                               {"sign", "batch"},
                               {"batch_size", 4},
                               {"epochs", 3}});
      members.push_back(cell_name(layer));
    }
    const std::string name = pack.size() == 1 ? cell_name(pack[0]) : "pack" + cell_name(pack[0]);
    plan["packs"].push_back({{"name", name}, {"members", members}});
  }
  return plan.dump();
}

std::string summary_of(const std::vector<CollectedCell>& cells) {
  std::string text;
  for (const CollectedCell& cell : cells) {
    text += cell.name + " " + cell.status + (cell.reason.empty() ? "" : ": " + cell.reason) + "\n";
  }
  return text;
}

std::vector<std::string> group_names(const fs::path& path, const char* group) {
  const hdf5::Handle file = hdf5::open_file(path.string());
  const hdf5::Handle opened = hdf5::open_group(file, group);
  H5G_info_t info{};
  EXPECT_GE(H5Gget_info(opened.id(), &info), 0);
  std::vector<std::string> names;
  for (hsize_t i = 0; i < info.nlinks; ++i) {
    std::string name(256, '\0');
    const ssize_t size = H5Lget_name_by_idx(opened.id(), ".", H5_INDEX_NAME, H5_ITER_INC, i,
                                            name.data(), name.size(), H5P_DEFAULT);
    names.push_back(name.substr(0, static_cast<std::size_t>(size)));
  }
  return names;
}

// The column `steps` of /summary, by HDF5 itself.
std::vector<std::int64_t> steps_in_summary(const fs::path& path) {
  const hdf5::Handle file = hdf5::open_file(path.string());
  const hdf5::Handle table(H5Dopen2(file.id(), "summary", H5P_DEFAULT), H5Dclose);
  const hdf5::Handle space(H5Dget_space(table.id()), H5Sclose);
  const hdf5::Handle row(H5Tcreate(H5T_COMPOUND, sizeof(std::int64_t)), H5Tclose);
  EXPECT_GE(H5Tinsert(row.id(), "steps", 0, H5T_NATIVE_INT64), 0);
  std::vector<std::int64_t> steps(
      static_cast<std::size_t>(H5Sget_simple_extent_npoints(space.id())));
  EXPECT_GE(H5Dread(table.id(), row.id(), H5S_ALL, H5S_ALL, H5P_DEFAULT, steps.data()), 0);
  return steps;
}

// The column `site` of /summary, likewise.
Names sites_in_summary(const fs::path& path) {
  constexpr std::size_t kMost = 8;
  const hdf5::Handle file = hdf5::open_file(path.string());
  const hdf5::Handle table(H5Dopen2(file.id(), "summary", H5P_DEFAULT), H5Dclose);
  const hdf5::Handle space(H5Dget_space(table.id()), H5Sclose);
  const hdf5::Handle text(H5Tcopy(H5T_C_S1), H5Tclose);
  EXPECT_GE(H5Tset_size(text.id(), kMost), 0);
  EXPECT_GE(H5Tset_cset(text.id(), H5T_CSET_UTF8), 0);
  const hdf5::Handle row(H5Tcreate(H5T_COMPOUND, kMost), H5Tclose);
  EXPECT_GE(H5Tinsert(row.id(), "site", 0, text.id()), 0);
  std::vector<std::array<char, kMost>> read(
      static_cast<std::size_t>(H5Sget_simple_extent_npoints(space.id())));
  EXPECT_GE(H5Dread(table.id(), row.id(), H5S_ALL, H5S_ALL, H5P_DEFAULT, read.data()), 0);
  Names sites;
  for (const auto& site : read) {
    sites.emplace_back(site.data());
  }
  return sites;
}

// Does something until the object ends.
class BackgroundProcess {
 public:
  explicit BackgroundProcess(const std::function<void()>& work) : pid_(::fork()) {
    if (pid_ == 0) {
      try {
        work();
      } catch (const std::exception&) {
        // The parent sees that nothing is done any more.
      }
      ::_exit(1);
    }
  }
  ~BackgroundProcess() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  BackgroundProcess(const BackgroundProcess&) = delete;
  BackgroundProcess& operator=(const BackgroundProcess&) = delete;

 private:
  pid_t pid_;
};

class CollectTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "collect-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    sweep_ = root_ / "sweep";
    out_ = root_ / "sweep.h5";
    fs::create_directory(sweep_);
  }
  void TearDown() override { fs::remove_all(root_); }

  void plan(const std::vector<std::vector<int>>& packs) const {
    write_text(sweep_ / "plan.json", plan_text(packs));
  }

  fs::path run_file(int layer) const { return sweep_ / (cell_name(layer) + ".h5"); }

  void run(int layer, RunStatus status, std::int64_t steps = 4) const {
    RunRecord record = sample_run(steps);
    record.attributes.status = status;
    record.attributes.layer = layer;
    record.checkpoint.seed = 11;
    write_run_file(run_file(layer), record);
  }

  CollectRequest request() const { return {{sweep_}, out_, false, "1.2.3", "abcdef"}; }
  std::string collect() const { return summary_of(collect_sweep(request())); }

  fs::path root_;
  fs::path sweep_;
  fs::path out_;
};

TEST_F(CollectTest, ASweepInEveryState) {
  plan({{0}, {1}, {2}, {3}, {4}, {5}});
  run(0, RunStatus::kComplete);
  run(1, RunStatus::kRunning);
  const auto claim = Claim::take(sweep_, cell_name(1));
  run(2, RunStatus::kRunning);
  run(3, RunStatus::kInterrupted);
  write_failure(sweep_, cell_name(3), "the loss is nan at step 3");
  run(4, RunStatus::kComplete);
  fs::resize_file(run_file(4), 1000);

  const std::vector<CollectedCell> cells = collect_sweep(request());
  ASSERT_EQ(cells.size(), 6U);
  std::vector<std::string> status;
  for (const CollectedCell& cell : cells) {
    status.push_back(cell.status);
  }
  EXPECT_EQ(status,
            (Names{"complete", "running", "interrupted", "failed", "unreadable", "missing"}));
  expect_parts(cells[3].reason, {"the loss is nan at step 3 (", "Z)"});
  expect_parts(cells[4].reason, {"damaged"});
  EXPECT_FALSE(cells[4].reason.starts_with("/")) << cells[4].reason;
  EXPECT_EQ(cells[0].reason + cells[1].reason + cells[2].reason + cells[5].reason, "");
  EXPECT_EQ(group_names(out_, "runs"),
            (Names{cell_name(0), cell_name(1), cell_name(2), cell_name(3)}));
  EXPECT_EQ(sites_in_summary(out_), Names(6, "block"));
}

// Another sweep beside the first, with a cell of each layer, and a run by itself.
class SeveralSources : public CollectTest {
 protected:
  void SetUp() override {
    CollectTest::SetUp();
    plan({{0}, {1}});
    run(0, RunStatus::kComplete);
    other_ = root_ / "other";
    fs::create_directory(other_);
    single_ = root_ / "single.h5";
    RunRecord record = sample_run(4);
    record.attributes.status = RunStatus::kComplete;
    record.attributes.layer = 7;
    record.attributes.model = "models/tiny";
    record.checkpoint.seed = 5;
    record.attributes.config =
        R"({"weight_decay":0.5,"train":"data/pairs.csv","lr":0.25,"beta":0.1,"sign":"both",)"
        R"("batch_size":2,"epochs":3,"world_size":4})";
    write_run_file(single_, record);
  }

  void other_plan(const std::vector<std::vector<int>>& packs) const {
    auto json = nlohmann::json::parse(plan_text(packs));
    json["settings"] = {{"weight_decay", 0.75}, {"shuffle", true}};
    write_text(other_ / "plan.json", json.dump());
  }

  CollectRequest all() const { return {{sweep_, other_, single_}, out_, false, "1.2.3", "abcdef"}; }

  fs::path other_;
  fs::path single_;
};

TEST_F(SeveralSources, AreOneFileThatNamesTheOrigins) {
  other_plan({{2}});
  RunRecord record = sample_run(4);
  record.attributes.status = RunStatus::kComplete;
  record.attributes.layer = 2;
  record.checkpoint.seed = 11;
  write_run_file(other_ / (cell_name(2) + ".h5"), record);
  const std::vector<CollectedCell> cells = collect_sweep(all());
  EXPECT_EQ(summary_of(cells), cell_name(0) + " complete\n" + cell_name(1) + " missing\n" +
                                   cell_name(2) + " complete\nsingle complete\n");
  EXPECT_EQ(cells[1].origin, sweep_.string());
  EXPECT_EQ(cells[2].origin, other_.string());
  EXPECT_EQ(cells[3].origin, single_.string());
  EXPECT_EQ(group_names(out_, "runs"), (Names{cell_name(0), cell_name(2), "single"}));
  expect_parts(describe_collection(cells, out_), {cell_name(1) + " in " + sweep_.string()});
  EXPECT_EQ(collection_as_json(cells, out_)["cells"][3]["origin"], single_.string());

  const hdf5::Handle file = hdf5::open_file(out_.string());
  const auto joined = nlohmann::json::parse(hdf5::read_text_attribute(file, "plan"));
  ASSERT_EQ(joined["cells"].size(), 4U);
  EXPECT_EQ(joined["cells"][3], (nlohmann::json{{"name", "single"},
                                                {"model", "tiny"},
                                                {"data", "pairs"},
                                                {"layer", 7},
                                                {"seed", 5},
                                                {"lr", 0.25},
                                                {"beta", 0.1},
                                                {"sign", "both"},
                                                {"batch_size", 2},
                                                {"epochs", 3},
                                                {"origin", single_.string()}}));
  ASSERT_EQ(joined["settings"]["inputs"].size(), 3U);
  EXPECT_EQ(joined["settings"]["inputs"][1], (nlohmann::json{{"model", "tiny"},
                                                             {"data", "pairs"},
                                                             {"origin", other_.string()},
                                                             {"weight_decay", 0.75},
                                                             {"shuffle", true}}));
  EXPECT_EQ(joined["settings"]["inputs"][2]["weight_decay"], 0.5);
  EXPECT_FALSE(joined["settings"]["inputs"][2].contains("world_size"))
      << "beside sweeps, a run has the settings that these have";
}

// The sweeps are of block outputs, and do not name them.
TEST_F(SeveralSources, ARunOfAnotherSiteStaysOneBesideSweeps) {
  RunRecord record = read_run_file(single_);
  record.attributes.site = Site::kMlp;
  auto config = nlohmann::json::parse(record.attributes.config);
  config["site"] = "mlp";
  record.attributes.config = config.dump();
  write_run_file(single_, record);
  CollectRequest request = all();
  request.sources = {sweep_, single_};
  collect_sweep(request);
  const hdf5::Handle file = hdf5::open_file(out_.string());
  const auto joined = nlohmann::json::parse(hdf5::read_text_attribute(file, "plan"));
  EXPECT_FALSE(joined["settings"]["inputs"][0].contains("site"));
  EXPECT_EQ(joined["settings"]["inputs"][1]["site"], "mlp");
  EXPECT_EQ(sites_in_summary(out_), (Names{"block", "block", "mlp"}));
}

// A cell without a run file is at the site of its sweep.
TEST_F(SeveralSources, SweepsOfTwoSitesAreToldApart) {
  other_plan({{2}, {3}});
  auto json = nlohmann::json::parse(text_of(other_ / "plan.json"));
  json["settings"]["site"] = "mlp";
  write_text(other_ / "plan.json", json.dump());
  RunRecord record = sample_run(4);
  record.attributes.status = RunStatus::kComplete;
  record.attributes.layer = 2;
  record.attributes.site = Site::kMlp;
  record.checkpoint.seed = 11;
  write_run_file(other_ / (cell_name(2) + ".h5"), record);
  CollectRequest request = all();
  request.sources = {sweep_, other_};
  collect_sweep(request);
  EXPECT_EQ(sites_in_summary(out_), (Names{"block", "block", "mlp", "mlp"}));
}

TEST_F(SeveralSources, ACellOfTwoPlacesIsRefusedByName) {
  other_plan({{1}, {2}});
  expect_parts(error_of<UserError>([&] { collect_sweep(all()); }),
               {cell_name(1), sweep_.string(), other_.string()});
  EXPECT_FALSE(fs::exists(out_));
  CollectRequest request = all();
  request.sources = {sweep_, run_file(0)};
  expect_parts(error_of<UserError>([&] { collect_sweep(request); }), {cell_name(0)});
}

TEST_F(SeveralSources, AreNeverReplaced) {
  other_plan({{2}});
  CollectRequest request = all();
  request.overwrite = true;
  for (const fs::path& out : {single_, other_ / "plan.json", other_ / (cell_name(2) + ".h5")}) {
    request.out = out;
    expect_parts(error_of<UserError>([&] { collect_sweep(request); }),
                 {out.string(), "must not be replaced"});
  }
}

TEST_F(SeveralSources, ARunByItselfIsACellOfItsName) {
  CollectRequest request = all();
  request.sources = {single_};
  EXPECT_EQ(summary_of(collect_sweep(request)), "single complete\n");
  EXPECT_EQ(group_names(out_, "runs"), Names{"single"});
  request.sources = {out_};
  request.out = root_ / "again.h5";
  expect_parts(error_of<UserError>([&] { collect_sweep(request); }), {out_.string()});
}

TEST_F(CollectTest, TheFileSaysWhatItIs) {
  plan({{0}});
  run(0, RunStatus::kComplete);
  collect();
  // Who takes it for a run is told what shows it.
  expect_parts(error_of<UserError>([&] { read_run_file(out_); }),
               {"it is a collected sweep; `bipo-dist report " + out_.string() + " --out "});
  const hdf5::Handle file = hdf5::open_file(out_.string());
  EXPECT_EQ(hdf5::read_integer_attribute(file, "schema_version"), 1);
  EXPECT_EQ(hdf5::read_text_attribute(file, "kind"), "sweep");
  EXPECT_EQ(hdf5::read_text_attribute(file, "plan"), plan_text({{0}}));
  EXPECT_EQ(hdf5::read_text_attribute(file, "program_version"), "1.2.3");
  EXPECT_EQ(hdf5::read_text_attribute(file, "git_commit"), "abcdef");
  EXPECT_EQ(hdf5::read_text_attribute(file, "created_utc").size(), 20U);
}

TEST_F(CollectTest, APacksClaimIsThatOfAllItsMembers) {
  plan({{0, 1}, {2}});
  run(0, RunStatus::kRunning);
  const auto claim = Claim::take(sweep_, "pack" + cell_name(0));
  ASSERT_NE(claim, nullptr);
  EXPECT_EQ(collect(), cell_name(0) + " running\n" + cell_name(1) + " running\n" + cell_name(2) +
                           " missing\n");
  claim->release();
  EXPECT_EQ(collect(), cell_name(0) + " interrupted\n" + cell_name(1) + " missing\n" +
                           cell_name(2) + " missing\n");
}

TEST_F(CollectTest, ASweepThatHasNotBegunHasARowForEveryCell) {
  plan({{0}, {1}});
  EXPECT_EQ(collect(), cell_name(0) + " missing\n" + cell_name(1) + " missing\n");
  EXPECT_EQ(steps_in_summary(out_), (std::vector<std::int64_t>{-1, -1}));
  EXPECT_EQ(group_names(out_, "runs"), Names{});
}

TEST_F(CollectTest, AFailureWithoutARunFileIsTold) {
  plan({{0}});
  write_failure(sweep_, cell_name(0), "no memory");
  const std::string text = collect();
  expect_parts(text, {cell_name(0) + " failed: no memory ("});
  EXPECT_EQ(steps_in_summary(out_), std::vector<std::int64_t>{-1});
}

TEST_F(CollectTest, TheRunOfAnotherCellIsNotTaken) {
  plan({{0}, {1}});
  run(0, RunStatus::kComplete);
  fs::copy_file(run_file(0), run_file(1));
  expect_parts(collect(), {cell_name(0) + " complete\n",
                           cell_name(1) + " unreadable: a run of layer 0 and seed 11"});
  EXPECT_EQ(group_names(out_, "runs"), Names{cell_name(0)});
}

TEST_F(CollectTest, OnlyReadsTheSweep) {
  plan({{0}, {1}});
  run(0, RunStatus::kInterrupted);
  const auto look = [&] {
    std::string text;
    for (const auto& entry : fs::recursive_directory_iterator(sweep_)) {
      text += entry.path().string() + text_of(entry.path());
    }
    return text;
  };
  const std::string before = look();
  collect();
  EXPECT_EQ(look(), before);
}

TEST_F(CollectTest, ThePlanThatASweepWritesIsRead) {
  const Cell cell{"tiny", "pairs", 7, 11, 5e-4, 0.1, "both", 4, 3, cell_name(7)};
  const SweepPlan written{R"({"lr_unit":"residual"})", std::nullopt, {cell}, {{{cell}, cell.name}}};
  write_text(sweep_ / "plan.json", plan_to_json(written));
  run(7, RunStatus::kComplete);
  EXPECT_EQ(collect(), cell_name(7) + " complete\n");
}

TEST_F(CollectTest, EachRunIsOfOneSaveWhileItIsReplaced) {
  plan({{0}});
  run(0, RunStatus::kRunning, 3);
  const BackgroundProcess writer([this] {
    for (std::int64_t steps = 0;; ++steps) {
      run(0, RunStatus::kRunning, steps % 40);
    }
  });
  std::int64_t least = 40;
  std::int64_t most = 0;
  for (int round = 0; round < 60; ++round) {
    EXPECT_EQ(collect(), cell_name(0) + " interrupted\n");
    const hdf5::Handle file = hdf5::open_file(out_.string());
    const hdf5::Handle copy = hdf5::open_group(hdf5::open_group(file, "runs"), cell_name(0));
    const auto step =
        hdf5::read_array<std::int64_t>(hdf5::open_group(copy, "checkpoint"), "step", 0);
    const std::int64_t in_summary = steps_in_summary(out_).at(0);
    EXPECT_EQ(in_summary, step.values.at(0)) << "round " << round;
    least = std::min(least, in_summary);
    most = std::max(most, in_summary);
  }
  EXPECT_LT(least, most) << "the file was not replaced meanwhile";
}

TEST_F(CollectTest, AnOlderCollectionIsReplaced) {
  plan({{0}});
  collect();
  run(0, RunStatus::kComplete, 3);
  collect();
  EXPECT_EQ(steps_in_summary(out_), std::vector<std::int64_t>{3});
}

TEST_F(CollectTest, AnythingElseIsReplacedOnlyOnRequest) {
  plan({{0}});
  const std::string notes = "my notes";
  write_text(out_, notes);
  expect_parts(error_of<UserError>([&] { collect(); }), {out_.string(), "--overwrite"});
  EXPECT_EQ(text_of(out_), notes);

  write_run_file(out_, sample_run(1));
  const std::string other_run = text_of(out_);
  expect_parts(error_of<UserError>([&] { collect(); }), {out_.string(), "--overwrite"});
  EXPECT_EQ(text_of(out_), other_run);

  CollectRequest overwriting = request();
  overwriting.overwrite = true;
  collect_sweep(overwriting);
  EXPECT_EQ(steps_in_summary(out_), std::vector<std::int64_t>{-1});
}

TEST_F(CollectTest, TheSweepsOwnFilesAreNeverReplaced) {
  plan({{0}, {1}});
  run(0, RunStatus::kComplete);
  for (const fs::path& own : {run_file(0), run_file(1), sweep_ / "plan.json",
                              sweep_ / ".." / "sweep" / run_file(0).filename()}) {
    CollectRequest overwriting = request();
    overwriting.overwrite = true;
    overwriting.out = own;
    const std::string before = text_of(own);
    expect_parts(error_of<UserError>([&] { collect_sweep(overwriting); }),
                 {own.string(), "file of the sweep itself"});
    EXPECT_EQ(text_of(own), before);
  }
  EXPECT_FALSE(fs::exists(run_file(1)));
}

TEST_F(CollectTest, AnOutThatCannotBeAFileIsRefused) {
  plan({{0}});
  for (const fs::path& out : {sweep_, root_ / "nowhere" / "sweep.h5"}) {
    CollectRequest impossible = request();
    impossible.out = out;
    expect_parts(error_of<UserError>([&] { collect_sweep(impossible); }), {out.string()});
  }
}

TEST_F(CollectTest, AFailedWriteLeavesTheOlderFile) {
  plan({{0}});
  collect();
  const std::string before = text_of(out_);
  run(0, RunStatus::kComplete);
  rlimit unlimited{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &unlimited), 0);
  const rlimit small{5000, unlimited.rlim_max};  // room to begin, none for the whole
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string message = error_of<EnvironmentError>([&] { collect(); });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &unlimited), 0);
  expect_parts(message, {out_.string(), "File too large"});
  EXPECT_EQ(text_of(out_), before);
}

TEST_F(CollectTest, WhatIsNoSweepsDirectoryIsRefused) {
  expect_parts(error_of<UserError>([&] { collect(); }),
               {sweep_.string(), "no plan.json", "bipo-dist sweep"});
  sweep_ = root_ / "nowhere";
  expect_parts(error_of<UserError>([&] { collect(); }), {sweep_.string(), "is no directory"});
  EXPECT_FALSE(fs::exists(out_));
}

struct BadPlan {
  const char* name;
  std::function<void(nlohmann::json&)> damage;
  const char* part;  // of the message
};

void PrintTo(const BadPlan& plan, std::ostream* out) {
  *out << plan.name;
}

class BadPlanTest : public CollectTest, public ::testing::WithParamInterface<BadPlan> {};

TEST_P(BadPlanTest, IsRefused) {
  auto plan = nlohmann::json::parse(plan_text({{0}, {1, 2}}));
  GetParam().damage(plan);
  write_text(sweep_ / "plan.json", plan.dump());
  expect_parts(error_of<UserError>([&] { collect(); }),
               {(sweep_ / "plan.json").string(), GetParam().part});
  EXPECT_FALSE(fs::exists(out_));
}

INSTANTIATE_TEST_SUITE_P(
    Of, BadPlanTest,
    ::testing::Values(
        BadPlan{"Newer", [](auto& plan) { plan["schema_version"] = 2; }, "newer bipo-dist"},
        BadPlan{"Unnamed", [](auto& plan) { plan["cells"][0].erase("name"); }, "damaged"},
        BadPlan{"Outside", [](auto& plan) { plan["cells"][0]["name"] = "../a"; }, "'../a'"},
        BadPlan{"Twice", [](auto& plan) { plan["cells"][1] = plan["cells"][0]; }, "twice"},
        BadPlan{"Unpacked", [](auto& plan) { plan["packs"].erase(0); }, "in no pack"},
        BadPlan{"Unknown", [](auto& plan) { plan["packs"][0]["members"][0] = "x"; }, "no cell"},
        BadPlan{"Nameless", [](auto& plan) { plan["settings"][""] = 1; },
                "a setting cannot be named ''"},
        BadPlan{"NamelessForAnInput",
                [](auto& plan) {
                  plan["settings"]["inputs"] = {{{"", 1}}};
                },
                "a setting cannot be named ''"},
        BadPlan{"NameOfTwoTexts", [](auto& plan) { plan["settings"][std::string("lr\0x", 4)] = 1; },
                "a setting cannot be named"},
        BadPlan{"LongName", [](auto& plan) { plan["settings"][std::string(70'000, 'x')] = 1; },
                "a setting cannot be named"},
        BadPlan{"ManySettings",
                [](auto& plan) {
                  for (int i = 0; i < 3000; ++i) {
                    plan["settings"]["setting" + std::to_string(i)] = i;
                  }
                },
                "cannot be more than"},
        BadPlan{"JointLayersOfAnother",
                [](auto& plan) { plan["cells"][0]["joint_layers"] = "3+5"; }, "'3+5'"},
        BadPlan{"Mistyped", [](auto& plan) { plan["cells"][0]["layer"] = "x"; }, "damaged"},
        BadPlan{"Array", [](auto& plan) { plan = nlohmann::json::array(); }, "damaged"}),
    [](const auto& instance) { return instance.param.name; });

TEST_F(CollectTest, APlanThatIsNoJsonIsRefused) {
  write_text(sweep_ / "plan.json", "{");
  expect_parts(error_of<UserError>([&] { collect(); }), {"plan.json", "damaged"});
}

TEST(CollectText, CountsAndNamesWhatIsMissing) {
  EXPECT_EQ("\n" + describe_collection({{"a", "complete", ""},
                                        {"b", "failed", "the loss is nan"},
                                        {"c", "missing", ""},
                                        {"d", "running", ""},
                                        {"e", "missing", ""},
                                        {"f", "unreadable", "damaged"},
                                        {"g", "interrupted", ""}},
                                       "out/s.h5"),
            R"(
out/s.h5: 7 cells: 1 complete, 1 running, 1 interrupted, 1 failed, 1 unreadable, 2 missing
running:
  d
interrupted:
  g
failed:
  b: the loss is nan
unreadable:
  f: damaged
missing:
  c
  e
not the whole sweep: run `bipo-dist sweep` with the same options for what is left (add --retry-failed for failed cells), then collect again
)");
}

TEST(CollectText, AWholeSweepIsOneLine) {
  EXPECT_EQ(describe_collection({{"a", "complete", ""}}, "s.h5"), "s.h5: 1 cell: 1 complete\n");
}

TEST(CollectText, LongListsAreCut) {
  std::vector<CollectedCell> cells;
  for (int i = 0; i < 23; ++i) {
    cells.push_back({"cell" + std::to_string(i), "missing", ""});
  }
  const std::string text = describe_collection(cells, "s.h5");
  expect_parts(text, {"23 missing", "  cell19\n  and 3 more\n"});
  EXPECT_EQ(text.find("cell20"), std::string::npos);
}

class CellFailureTest : public CollectTest {};

TEST_F(CellFailureTest, IsReadAsItWasWritten) {
  EXPECT_FALSE(read_failure(sweep_, "cell"));
  clear_failure(sweep_, "cell");
  write_failure(sweep_, "cell", "first");
  write_failure(sweep_, "cell", "größer \"als\"\nje");
  const auto failure = read_failure(sweep_, "cell");
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->reason, "größer \"als\"\nje");
  EXPECT_EQ(failure->utc.size(), 20U);
  char host[256] = {};
  ASSERT_EQ(::gethostname(host, sizeof(host) - 1), 0);
  EXPECT_EQ(failure->host, host);
  EXPECT_FALSE(read_failure(sweep_, "cel"));
  clear_failure(sweep_, "cell");
  EXPECT_FALSE(read_failure(sweep_, "cell"));
  EXPECT_TRUE(fs::is_empty(sweep_ / "failures"));
}

TEST_F(CellFailureTest, IsJsonForOtherPrograms) {
  write_failure(sweep_, "cell", "why");
  const auto json = nlohmann::json::parse(text_of(sweep_ / "failures" / "cell.json"));
  EXPECT_EQ(json.size(), 3U);
  EXPECT_EQ(json.at("reason"), "why");
}

TEST_F(CellFailureTest, ADamagedRecordIsStillAFailure) {
  write_failure(sweep_, "cell", "why");
  for (const char* text : {"", "{", "[]", R"({"reason":1})"}) {
    write_text(sweep_ / "failures" / "cell.json", text);
    const auto failure = read_failure(sweep_, "cell");
    ASSERT_TRUE(failure) << text;
    expect_parts(failure->reason, {"unknown", "cell.json"});
  }
}

TEST_F(CellFailureTest, AnyBytesOfAReasonMakeARecord) {
  write_failure(sweep_, "cell", "bad \xff byte");
  expect_parts(read_failure(sweep_, "cell")->reason, {"bad ", " byte"});
}

}  // namespace
}  // namespace bipo
