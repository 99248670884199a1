// A pack's checkpoint: its layout as HDF5 itself reads it, what comes back, what is refused, and
// records that go back to it.
#include "experiments/sweeps/pack_checkpoint.hpp"

#include <gtest/gtest.h>
#include <hdf5.h>
#include <unistd.h>

#include <fstream>
#include <limits>

#include "collectives/foundation/errors.hpp"
#include "tests/experiments/sample_run.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

using testing::error_of;
using testing::expect_parts;

constexpr std::uint64_t kLargestSeed = std::numeric_limits<std::uint64_t>::max();

Checkpoint state(float first, std::uint64_t seed) {
  Checkpoint checkpoint;
  checkpoint.vector = {first, first + 1, first + 2};
  checkpoint.exp_avg = {first + 3, first + 4, first + 5};
  checkpoint.exp_avg_sq = {first + 6, first + 7, first + 8};
  checkpoint.step = 17;
  checkpoint.seed = seed;
  return checkpoint;
}

PackCheckpoint sample_checkpoint() {
  return {{"layer3-seed1", "layer3-seed2"}, {state(10, 1), state(20, kLargestSeed)}};
}

template <typename T>
std::vector<T> dataset_of(const fs::path& path, const char* name, hid_t type,
                          const std::vector<hsize_t>& expected_dims) {
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  const hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
  const hid_t space = H5Dget_space(dataset);
  std::vector<hsize_t> dims(static_cast<std::size_t>(H5Sget_simple_extent_ndims(space)));
  H5Sget_simple_extent_dims(space, dims.data(), nullptr);
  EXPECT_EQ(dims, expected_dims) << name;
  std::vector<T> values(static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)));
  EXPECT_GE(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0) << name;
  H5Sclose(space);
  H5Dclose(dataset);
  H5Fclose(file);
  return values;
}

class PackCheckpointTest : public ::testing::Test {
 protected:
  PackCheckpointTest()
      : directory_(fs::path(::testing::TempDir()) /
                   ("pack_checkpoint_test_" + std::to_string(getpid()))),
        path_(directory_ / "pack.checkpoint") {
    fs::create_directories(directory_);
  }
  ~PackCheckpointTest() override { fs::remove_all(directory_); }

  void expect_refused() const {
    const std::string message = error_of<UserError>([&] { read_pack_checkpoint(path_); });
    expect_parts(message, {path_.string(), "remove it"});
  }

  // Opens the file for a change behind the program's back.
  void edit(const std::function<void(hid_t file)>& change) const {
    const hid_t file = H5Fopen(path_.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    ASSERT_GE(file, 0);
    change(file);
    H5Fclose(file);
  }

  fs::path directory_;
  fs::path path_;
};

TEST_F(PackCheckpointTest, HasOneRowPerMember) {
  write_pack_checkpoint(path_, sample_checkpoint());
  using Floats = std::vector<float>;
  EXPECT_EQ(dataset_of<float>(path_, "vector", H5T_NATIVE_FLOAT, {2, 3}),
            (Floats{10, 11, 12, 20, 21, 22}));
  EXPECT_EQ(dataset_of<float>(path_, "exp_avg", H5T_NATIVE_FLOAT, {2, 3}),
            (Floats{13, 14, 15, 23, 24, 25}));
  EXPECT_EQ(dataset_of<float>(path_, "exp_avg_sq", H5T_NATIVE_FLOAT, {2, 3}),
            (Floats{16, 17, 18, 26, 27, 28}));
  EXPECT_EQ(dataset_of<std::int64_t>(path_, "step", H5T_NATIVE_INT64, {}),
            std::vector<std::int64_t>{17});
  EXPECT_EQ(dataset_of<std::uint64_t>(path_, "seed", H5T_NATIVE_UINT64, {2}),
            (std::vector<std::uint64_t>{1, kLargestSeed}));
}

TEST_F(PackCheckpointTest, ComesBackAsItWasWritten) {
  write_pack_checkpoint(path_, sample_checkpoint());
  const PackCheckpoint read = read_pack_checkpoint(path_);
  EXPECT_EQ(read.names, (std::vector<std::string>{"layer3-seed1", "layer3-seed2"}));
  ASSERT_EQ(read.members.size(), 2U);
  EXPECT_EQ(read.members[1].vector, (std::vector<float>{20, 21, 22}));
  EXPECT_EQ(read.members[1].exp_avg, (std::vector<float>{23, 24, 25}));
  EXPECT_EQ(read.members[1].exp_avg_sq, (std::vector<float>{26, 27, 28}));
  EXPECT_EQ(read.members[0].step, 17);
  EXPECT_EQ(read.members[1].step, 17);
  EXPECT_EQ(read.members[0].seed, 1U);
  EXPECT_EQ(read.members[1].seed, kLargestSeed);
}

TEST_F(PackCheckpointTest, LearnedFactorsComeBackToTheirMembers) {
  PackCheckpoint written = sample_checkpoint();
  written.members[1].factor = LearnedFactor{1.5F, 0.25F, 0.125F};
  write_pack_checkpoint(path_, written);
  const PackCheckpoint read = read_pack_checkpoint(path_);
  EXPECT_FALSE(read.members[0].factor.has_value());
  ASSERT_TRUE(read.members[1].factor.has_value());
  EXPECT_EQ(read.members[1].factor->value, 1.5F);
  EXPECT_EQ(read.members[1].factor->exp_avg, 0.25F);
  EXPECT_EQ(read.members[1].factor->exp_avg_sq, 0.125F);
  write_pack_checkpoint(path_, sample_checkpoint());
  edit([](hid_t file) { EXPECT_EQ(H5Lexists(file, "factor", H5P_DEFAULT), 0); });
}

TEST_F(PackCheckpointTest, ReplacesAnOlderOne) {
  write_pack_checkpoint(path_, {{"other"}, {state(0, 3)}});
  write_pack_checkpoint(path_, sample_checkpoint());
  EXPECT_EQ(read_pack_checkpoint(path_).names.front(), "layer3-seed1");
}

TEST_F(PackCheckpointTest, AFailedWriteSaysWhere) {
  const fs::path lost = directory_ / "no such directory" / "pack.checkpoint";
  const std::string message =
      error_of<EnvironmentError>([&] { write_pack_checkpoint(lost, sample_checkpoint()); });
  expect_parts(message, {lost.string()});
}

TEST_F(PackCheckpointTest, RefusesWhatIsNoCheckpoint) {
  expect_refused();  // no file
  std::ofstream(path_) << "not HDF5 at all";
  expect_refused();
}

TEST_F(PackCheckpointTest, RefusesATruncatedFile) {
  write_pack_checkpoint(path_, sample_checkpoint());
  fs::resize_file(path_, fs::file_size(path_) / 2);
  expect_refused();
}

TEST_F(PackCheckpointTest, RefusesANewerSchema) {
  write_pack_checkpoint(path_, sample_checkpoint());
  edit([](hid_t file) {
    const std::int64_t newer = kPackCheckpointSchema + 1;
    const hid_t attribute = H5Aopen(file, "schema_version", H5P_DEFAULT);
    EXPECT_GE(H5Awrite(attribute, H5T_NATIVE_INT64, &newer), 0);
    H5Aclose(attribute);
  });
  expect_refused();
}

TEST_F(PackCheckpointTest, RefusesMomentsOfOtherMembers) {
  write_pack_checkpoint(path_, sample_checkpoint());
  edit([](hid_t file) {
    const hsize_t three_members[] = {3, 3};
    const hid_t dataset = H5Dopen2(file, "exp_avg", H5P_DEFAULT);
    EXPECT_GE(H5Dset_extent(dataset, three_members), 0);
    H5Dclose(dataset);
  });
  expect_refused();
}

TEST_F(PackCheckpointTest, RefusesFewerSeedsThanMembers) {
  write_pack_checkpoint(path_, sample_checkpoint());
  edit([](hid_t file) {
    const hsize_t one_member[] = {1};
    const hid_t dataset = H5Dopen2(file, "seed", H5P_DEFAULT);
    EXPECT_GE(H5Dset_extent(dataset, one_member), 0);
    H5Dclose(dataset);
  });
  expect_refused();
}

TEST_F(PackCheckpointTest, RefusesChangedNumbers) {
  write_pack_checkpoint(path_, sample_checkpoint());
  edit([](hid_t file) {
    const std::vector<float> zeros(6);
    const hid_t dataset = H5Dopen2(file, "vector", H5P_DEFAULT);
    EXPECT_GE(H5Dwrite(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, zeros.data()), 0);
    H5Dclose(dataset);
  });
  const std::string message = error_of<UserError>([&] { read_pack_checkpoint(path_); });
  expect_parts(message, {path_.string(), "'vector' does not match its checksum", "remove it"});
}

TEST_F(PackCheckpointTest, MembersAtDifferentStepsAreABug) {
  PackCheckpoint torn = sample_checkpoint();
  torn.members[1].step = 16;
  error_of<BugError>([&] { write_pack_checkpoint(path_, torn); });
  PackCheckpoint nameless = sample_checkpoint();
  nameless.names.pop_back();
  error_of<BugError>([&] { write_pack_checkpoint(path_, nameless); });
  EXPECT_FALSE(fs::exists(path_));
}

// The sample's numbers are functions of their index, so that a run of four steps is what a longer
// one was after four.
TEST(RewindTest, LeavesTheRecordOfItsStep) {
  RunRecord rewound = sample_run(7);
  const RunRecord expected = sample_run(4);
  rewind_to(expected.checkpoint, rewound);

  ASSERT_EQ(rewound.steps.size(), 4U);
  EXPECT_EQ(rewound.steps.back().step, 3);
  EXPECT_EQ(rewound.steps.back().loss, expected.steps.back().loss);
  ASSERT_EQ(rewound.evals.size(), expected.evals.size());
  EXPECT_EQ(rewound.evals.back().step, 4) << "the evaluation after the step belongs to it";
  EXPECT_TRUE(rewound.eval_samples.empty()) << "those of the last evaluation, after the step";
  RunRecord same = sample_run(4);
  rewind_to(expected.checkpoint, same);
  EXPECT_EQ(same.eval_samples.size(), expected.eval_samples.size());
  ASSERT_EQ(rewound.vectors.size(), 2U);
  EXPECT_EQ(rewound.vectors.back().step, 4);
  EXPECT_EQ(rewound.vectors.back().value, expected.vectors.back().value);
  EXPECT_EQ(rewound.checkpoint.step, 4);
}

TEST(RewindTest, TakesOverTheState) {
  RunRecord record = sample_run(5);
  Checkpoint earlier = record.checkpoint;
  earlier.step = 3;
  earlier.vector = sample_hidden(100);
  earlier.exp_avg = sample_hidden(200);
  earlier.exp_avg_sq = sample_hidden(300);
  rewind_to(earlier, record);
  EXPECT_EQ(record.checkpoint.step, 3);
  EXPECT_EQ(record.checkpoint.vector, sample_hidden(100));
  EXPECT_EQ(record.checkpoint.exp_avg, sample_hidden(200));
  EXPECT_EQ(record.checkpoint.exp_avg_sq, sample_hidden(300));
  EXPECT_EQ(record.vectors.back().step, 2);
}

TEST(RewindTest, ToTheBeginningLeavesNothing) {
  RunRecord record = sample_run(5);
  rewind_to(sample_run(0).checkpoint, record);
  EXPECT_TRUE(record.steps.empty());
  EXPECT_TRUE(record.evals.empty());
  EXPECT_TRUE(record.vectors.empty());
}

TEST(RewindTest, GoesBackOnly) {
  RunRecord record = sample_run(3);
  const Checkpoint later = sample_run(4).checkpoint;
  error_of<BugError>([&] { rewind_to(later, record); });
}

}  // namespace
}  // namespace bipo
