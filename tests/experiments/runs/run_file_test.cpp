// The run file: what is written comes back, nothing damaged or foreign passes, and a failed save
// leaves the old file.
#include "experiments/runs/run_file.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <optional>
#include <tuple>

#include "collectives/foundation/errors.hpp"
#include "tests/experiments/sample_run.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

using testing::error_of;
using testing::expect_parts;

std::string bytes_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void put_bytes(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string read_error(const fs::path& path) {
  return error_of<UserError>([&] { read_run_file(path); });
}

std::string host_name() {
  std::array<char, 256> name{};
  EXPECT_EQ(gethostname(name.data(), name.size() - 1), 0);
  return name.data();
}

// The pid of a process that has just ended.
pid_t gone_pid() {
  const pid_t child = fork();
  if (child == 0) {
    _exit(0);
  }
  EXPECT_EQ(waitpid(child, nullptr, 0), child);
  return child;
}

// Makes the file one of an earlier version.
void drop_checksums(hid_t file) {
  H5Adelete(file, "checksum");
  for (const std::string name : {"steps", "evals", "eval_samples", "vectors/value", "vectors/step",
                                 "vectors/epoch", "checkpoint/vector", "checkpoint/exp_avg",
                                 "checkpoint/exp_avg_sq", "checkpoint/step", "checkpoint/seed"}) {
    H5L_info_t info{};
    const bool is_there =
        H5Lexists(file, name.substr(0, name.find('/')).c_str(), H5P_DEFAULT) > 0 &&
        H5Lexists(file, name.c_str(), H5P_DEFAULT) > 0 &&
        H5Lget_info(file, name.c_str(), &info, H5P_DEFAULT) >= 0 && info.type == H5L_TYPE_HARD;
    if (is_there && H5Aexists_by_name(file, name.c_str(), "checksum", H5P_DEFAULT) > 0) {
      H5Adelete_by_name(file, name.c_str(), "checksum", H5P_DEFAULT);
    }
  }
}

class RunFileTest : public ::testing::Test {
 protected:
  RunFileTest()
      : directory_(fs::path(::testing::TempDir()) / ("run_file_test_" + std::to_string(getpid()))) {
    fs::create_directories(directory_);
  }
  ~RunFileTest() override { fs::remove_all(directory_); }

  fs::path file() const { return directory_ / "run.h5"; }

  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(directory_)) {
      found.push_back(entry.path().filename().string());
    }
    std::sort(found.begin(), found.end());
    return found;
  }

  // Changes a good file through HDF5 itself.
  void change(const std::function<void(hid_t)>& change) {
    write_run_file(file(), sample_run(4));
    const hid_t id = H5Fopen(file().c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    ASSERT_GE(id, 0);
    change(id);
    H5Fclose(id);
  }

  // The same with a file without checksums, so that only what is changed is wrong.
  void edit(const std::function<void(hid_t)>& make_change) {
    change([&](hid_t id) {
      make_change(id);
      drop_checksums(id);
    });
  }

  fs::path directory_;
};

void set_integer(hid_t object, const char* name, std::int64_t value) {
  const hid_t attribute = H5Aopen(object, name, H5P_DEFAULT);
  ASSERT_GE(H5Awrite(attribute, H5T_NATIVE_INT64, &value), 0);
  H5Aclose(attribute);
}

void set_text(hid_t object, const char* name, const char* value) {
  const hid_t attribute = H5Aopen(object, name, H5P_DEFAULT);
  const hid_t type = H5Aget_type(attribute);
  ASSERT_GE(H5Awrite(attribute, type, &value), 0);
  H5Tclose(type);
  H5Aclose(attribute);
}

// Puts a dataset of zeros in place of `name`.
void replace_dataset(hid_t file, const char* name, hid_t type, std::vector<hsize_t> dims,
                     hid_t properties = H5P_DEFAULT) {
  ASSERT_GE(H5Ldelete(file, name, H5P_DEFAULT), 0);
  const hid_t space = H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr);
  const hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
  ASSERT_GE(dataset, 0);
  H5Dclose(dataset);
  H5Sclose(space);
}

void expect_same_run(const RunRecord& read, const RunRecord& written) {
  EXPECT_EQ(read.attributes.status, RunStatus::kRunning);
  EXPECT_EQ(read.attributes.config, written.attributes.config);
  EXPECT_EQ(read.attributes.program_version, "0.1.0");
  EXPECT_EQ(read.attributes.git_commit, "0123456789abcdef");
  EXPECT_EQ(read.attributes.created_utc, "2026-01-02T03:04:05Z");
  EXPECT_EQ(read.attributes.model, "models/größe");
  EXPECT_EQ(read.attributes.layer, 15);
  EXPECT_EQ(read.attributes.hidden_size, kSampleHidden);
  EXPECT_EQ(read.attributes.world_size, 4);
  EXPECT_EQ(read.attributes.dp, 2);
  EXPECT_EQ(read.attributes.tp, 2);
  EXPECT_EQ(read.attributes.backend, "mpi");
  EXPECT_EQ(read.attributes.dtype, "fp32");
  EXPECT_EQ(read.attributes.hosts, "node1,node2");

  ASSERT_EQ(read.steps.size(), 5U);
  for (std::size_t i = 0; i < 5; ++i) {
    const StepRow& want = written.steps[i];
    const StepRow& have = read.steps[i];
    EXPECT_EQ(std::tie(have.step, have.epoch, have.lr, have.loss, have.margin, have.accuracy),
              std::tie(want.step, want.epoch, want.lr, want.loss, want.margin, want.accuracy));
    EXPECT_EQ(std::tie(have.sign, have.grad_norm, have.vector_norm, have.tokens, have.seconds),
              std::tie(want.sign, want.grad_norm, want.vector_norm, want.tokens, want.seconds));
  }
  ASSERT_EQ(read.evals.size(), 6U);
  for (std::size_t i = 0; i < 6; ++i) {
    const EvalRow& want = written.evals[i];
    const EvalRow& have = read.evals[i];
    EXPECT_EQ(std::tie(have.step, have.epoch, have.multiplier, have.pairs, have.loss),
              std::tie(want.step, want.epoch, want.multiplier, want.pairs, want.loss));
    EXPECT_EQ(std::tie(have.margin, have.accuracy, have.chosen_logp, have.rejected_logp),
              std::tie(want.margin, want.accuracy, want.chosen_logp, want.rejected_logp));
  }
  ASSERT_EQ(read.vectors.size(), 2U);
  EXPECT_EQ(read.vectors[1].value, sample_hidden(3));
  EXPECT_EQ(read.vectors[1].step, 4);
  EXPECT_EQ(read.vectors[1].epoch, 1);
  EXPECT_EQ(read.checkpoint.vector, sample_hidden(10));
  EXPECT_EQ(read.checkpoint.exp_avg, sample_hidden(20));
  EXPECT_EQ(read.checkpoint.exp_avg_sq, sample_hidden(30));
  EXPECT_EQ(read.checkpoint.step, 5);
  EXPECT_EQ(read.checkpoint.seed, std::numeric_limits<std::uint64_t>::max() - 1);
}

TEST_F(RunFileTest, EverythingComesBack) {
  const RunRecord written = sample_run(5);
  write_run_file(file(), written);
  const RunRecord read = read_run_file(file());
  expect_same_run(read, written);
  ASSERT_EQ(read.eval_samples.size(),
            6U);  // two pairs at three multipliers, of the last evaluation
  for (std::size_t i = 0; i < 6; ++i) {
    const EvalSampleRow& want = written.eval_samples[i];
    const EvalSampleRow& have = read.eval_samples[i];
    EXPECT_EQ(std::tie(have.step, have.epoch, have.multiplier, have.pair),
              std::tie(want.step, want.epoch, want.multiplier, want.pair));
    EXPECT_EQ(std::tie(have.chosen_logp, have.rejected_logp),
              std::tie(want.chosen_logp, want.rejected_logp));
  }
}

TEST_F(RunFileTest, ALearnedFactorComesBack) {
  RunRecord written = sample_run(5);
  written.checkpoint.factor = LearnedFactor{1.75F, 0.25F, 0.125F};
  written.vectors.front().factor = 1.5;
  written.vectors.back().factor = 1.75;
  write_run_file(file(), written);
  const RunRecord read = read_run_file(file());
  expect_same_run(read, written);
  ASSERT_TRUE(read.checkpoint.factor.has_value());
  EXPECT_EQ(read.checkpoint.factor->value, 1.75F);
  EXPECT_EQ(read.checkpoint.factor->exp_avg, 0.25F);
  EXPECT_EQ(read.checkpoint.factor->exp_avg_sq, 0.125F);
  EXPECT_EQ(read.vectors.front().factor, 1.5);
  EXPECT_EQ(read.vectors.back().factor, 1.75);
}

// The sample's run with two further layers, whose numbers follow those of the lowest.
RunRecord run_of_three_layers() {
  RunRecord record = sample_run(5);
  record.attributes.higher_layers = {17, 20};
  const auto add_parts = [](std::vector<float>& numbers) {
    const std::vector<float> lowest = numbers;
    for (const float shift : {100.0F, 200.0F}) {
      for (const float number : lowest) {
        numbers.push_back(number + shift);
      }
    }
  };
  for (SavedVector& saved : record.vectors) {
    add_parts(saved.value);
  }
  for (const CheckpointPart& part : kCheckpointParts) {
    add_parts(record.checkpoint.*part.member);
  }
  return record;
}

TEST_F(RunFileTest, VectorsOfSeveralLayersComeBack) {
  RunRecord written = run_of_three_layers();
  write_run_file(file(), written);
  const RunRecord read = read_run_to_continue(file());
  EXPECT_FALSE(read.additions) << "the layers are the program's own";
  EXPECT_EQ(to_string(steered_layers(read.attributes)), "15,17,20");
  EXPECT_EQ(read.vectors.back().value, written.vectors.back().value);
  EXPECT_EQ(read.checkpoint.vector, written.checkpoint.vector);
  EXPECT_EQ(read.checkpoint.exp_avg_sq, written.checkpoint.exp_avg_sq);
  const std::vector<StoredVector> stored = read_stored_vectors(file());
  ASSERT_EQ(stored.size(), 3U);
  EXPECT_EQ(stored[0].value, sample_hidden(3));
  EXPECT_EQ(stored[0].layer, 15);
  EXPECT_EQ(stored[2].value, sample_hidden(203));
  EXPECT_EQ(stored[2].layer, 20);
  EXPECT_EQ(stored[2].step, 4);
  expect_parts(error_of<UserError>([&] { read_stored_vector(file()); }),
               {"run.h5: holds a vector for each of 3 layers, from 15 to 20",
                "`bipo-dist export --layer 20"});
  // What export and import make would act at the blocks' outputs.
  written.attributes.site = Site::kMlp;
  write_run_file(file(), written);
  EXPECT_TRUE(
      error_of<UserError>([&] { read_stored_vector(file()); }).ends_with("a run of one layer"));
}

// Other programs find the numbers of a layer by its place.
TEST_F(RunFileTest, ArraysOfSeveralLayersHaveADimensionForThem) {
  write_run_file(file(), run_of_three_layers());
  const hdf5::Handle opened = hdf5::open_file(file().string());
  const hdf5::Handle vectors = hdf5::open_group(opened, "vectors");
  EXPECT_EQ(hdf5::read_array<float>(vectors, "value", 3).dims,
            (std::vector<hsize_t>{2, 3, kSampleHidden}));
  EXPECT_EQ(hdf5::read_array<std::int64_t>(vectors, "layer", 1).values,
            (std::vector<std::int64_t>{15, 17, 20}));
  const hdf5::Handle checkpoint = hdf5::open_group(opened, "checkpoint");
  EXPECT_EQ(hdf5::read_array<float>(checkpoint, "exp_avg", 2).dims,
            (std::vector<hsize_t>{3, kSampleHidden}));
}

// As files of earlier versions.
TEST_F(RunFileTest, ARunOfOneLayerHasNoDimensionForIt) {
  edit([](hid_t id) { EXPECT_EQ(H5Lexists(id, "vectors/layer", H5P_DEFAULT), 0); });
  const RunRecord read = read_run_file(file());
  EXPECT_TRUE(read.attributes.higher_layers.empty());
  const std::vector<StoredVector> stored = read_stored_vectors(file());
  ASSERT_EQ(stored.size(), 1U);
  EXPECT_EQ(stored[0].layer, 15);
}

std::int64_t schema_of(hid_t id) {
  std::int64_t schema = 0;
  const hid_t attribute = H5Aopen(id, "schema_version", H5P_DEFAULT);
  EXPECT_GE(H5Aread(attribute, H5T_NATIVE_INT64, &schema), 0);
  H5Aclose(attribute);
  return schema;
}

// Under a schema that versions which know one site refuse.
TEST_F(RunFileTest, ASiteComesBack) {
  RunRecord written = run_of_three_layers();
  written.attributes.site = Site::kMlp;
  write_run_file(file(), written);
  const hid_t id = H5Fopen(file().c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  ASSERT_GE(id, 0);
  EXPECT_EQ(schema_of(id), 2);
  H5Fclose(id);
  EXPECT_EQ(steered_layers(read_run_file(file()).attributes),
            SteeredLayers(std::vector<std::int64_t>{15, 17, 20}).at(Site::kMlp));
  for (const StoredVector& vector : read_stored_vectors(file())) {
    EXPECT_EQ(vector.place(), SteeredPlace(vector.layer, Site::kMlp));
  }
}

// As files of earlier versions.
TEST_F(RunFileTest, ARunOfBlockOutputsHasNoSite) {
  edit([](hid_t id) {
    EXPECT_EQ(H5Aexists(id, "site"), 0);
    EXPECT_EQ(schema_of(id), 1);
  });
  EXPECT_EQ(read_run_file(file()).attributes.site, Site::kBlock);
  EXPECT_EQ(read_stored_vector(file()).site, Site::kBlock);
}

// As files of earlier versions.
TEST_F(RunFileTest, ARunWithoutALearnedFactorHasNone) {
  edit([](hid_t id) {
    EXPECT_EQ(H5Lexists(id, "vectors/factor", H5P_DEFAULT), 0);
    EXPECT_EQ(H5Lexists(id, "checkpoint/factor", H5P_DEFAULT), 0);
  });
  const RunRecord read = read_run_file(file());
  EXPECT_FALSE(read.checkpoint.factor.has_value());
  EXPECT_EQ(read.vectors.back().factor, 1);
}

TEST_F(RunFileTest, AVerdictComesBack) {
  RunRecord written = sample_run(5);
  written.attributes.verdict = "weak: no effect is shown";
  write_run_file(file(), written);
  const RunRecord read = read_run_file(file());
  expect_same_run(read, written);
  EXPECT_EQ(read.attributes.verdict, "weak: no effect is shown");
  EXPECT_TRUE(is_weak(read.attributes));
}

// As files of earlier versions.
TEST_F(RunFileTest, ARunWithoutAVerdictHasNoAttribute) {
  write_run_file(file(), sample_run(5));
  edit([](hid_t id) { EXPECT_EQ(H5Aexists(id, "verdict"), 0); });
  const RunRecord read = read_run_file(file());
  EXPECT_EQ(read.attributes.verdict, "");
  EXPECT_FALSE(is_weak(read.attributes));
}

// The program of schema 1 wrote it; every later one must read it.
TEST_F(RunFileTest, FilesOfSchema1StayReadable) {
  const fs::path kept = fs::path(BIPO_SOURCE_DIR) / "tests/experiments/data/run_schema1.h5";
  expect_same_run(read_run_file(kept), sample_run(5));
  EXPECT_TRUE(read_run_file(kept).eval_samples.empty());
}

TEST_F(RunFileTest, AFirstSaveIsEmptyButComplete) {
  write_run_file(file(), sample_run(0));
  const RunRecord read = read_run_file(file());
  EXPECT_TRUE(read.steps.empty() && read.evals.empty() && read.vectors.empty());
  EXPECT_EQ(read.checkpoint.vector.size(), static_cast<std::size_t>(kSampleHidden));
}

TEST_F(RunFileTest, ManyRowsNonFiniteNumbersAndLongTextsComeBack) {
  RunRecord record = sample_run(10001);
  record.steps[9999].loss = std::numeric_limits<double>::quiet_NaN();
  record.steps[10000].grad_norm = std::numeric_limits<double>::infinity();
  record.attributes.hosts = std::string(200000, 'h');
  record.attributes.backend = "";
  write_run_file(file(), record);
  const RunRecord read = read_run_file(file());
  ASSERT_EQ(read.steps.size(), 10001U);
  EXPECT_EQ(read.steps[5000].margin, 2500);
  EXPECT_TRUE(std::isnan(read.steps[9999].loss));
  EXPECT_TRUE(std::isinf(read.steps[10000].grad_norm));
  EXPECT_EQ(read.attributes.hosts, record.attributes.hosts);
  EXPECT_EQ(read.attributes.backend, "");
}

TEST_F(RunFileTest, ASaveReplacesTheOldFileAndLeavesNothingElse) {
  write_run_file(file(), sample_run(2));
  RunRecord later = sample_run(4);
  later.attributes.status = RunStatus::kComplete;
  write_run_file(file(), later);
  EXPECT_EQ(read_run_file(file()).steps.size(), 4U);
  EXPECT_EQ(read_run_file(file()).attributes.status, RunStatus::kComplete);
  EXPECT_EQ(names(), std::vector<std::string>{"run.h5"});
}

TEST_F(RunFileTest, ALinkStaysALink) {
  write_run_file(directory_ / "real.h5", sample_run(2));
  fs::create_symlink("real.h5", file());
  write_run_file(file(), sample_run(4));
  EXPECT_TRUE(fs::is_symlink(file()));
  EXPECT_EQ(read_run_file(directory_ / "real.h5").steps.size(), 4U);
}

TEST_F(RunFileTest, ALinkToNothingYetStaysALink) {
  fs::create_directory(directory_ / "elsewhere");
  fs::create_symlink("elsewhere/second.h5", file());
  fs::create_symlink("real.h5", directory_ / "elsewhere" / "second.h5");
  check_replaceable(file());
  write_run_file(file(), sample_run(4));
  EXPECT_TRUE(fs::is_symlink(file()));
  EXPECT_TRUE(fs::is_symlink(directory_ / "elsewhere" / "second.h5"));
  EXPECT_EQ(read_run_file(directory_ / "elsewhere" / "real.h5").steps.size(), 4U);
  fs::create_symlink("circle.h5", directory_ / "circle.h5");
  EXPECT_THROW(write_run_file(directory_ / "circle.h5", sample_run(1)), EnvironmentError);
}

TEST_F(RunFileTest, AVersionTellsWritesApart) {
  EXPECT_EQ(version_of(file()), std::nullopt);
  write_run_file(file(), sample_run(2));
  const auto first = version_of(file());
  ASSERT_TRUE(first);
  EXPECT_EQ(version_of(file()), first);
  write_run_file(file(), sample_run(2));
  EXPECT_NE(version_of(file()), first);
}

TEST_F(RunFileTest, RoomIsReservedUntilItIsNeeded) {
  const auto free_here = [&] { return fs::space(directory_).available; };
  constexpr std::uint64_t kBytes = 32 << 20;  // twice
  const auto before = free_here();
  ReservedSpace space(file(), kBytes);
  EXPECT_EQ(names(), std::vector<std::string>());
  const auto held = free_here();
  space.release();
  const auto released = free_here();
  // Others write to this file system too, but not so much.
  EXPECT_LT(held + kBytes, before);
  EXPECT_GT(released, held + kBytes);
  space.take_again();
  EXPECT_LT(free_here() + kBytes, released);
  EXPECT_THROW(ReservedSpace(file(), std::uint64_t{1} << 50), UserError);
}

TEST_F(RunFileTest, APathWithoutDirectoryMeansTheCurrentOne) {
  const fs::path before = fs::current_path();
  fs::current_path(directory_);
  write_run_file("run.h5", sample_run(1));
  EXPECT_NO_THROW(check_replaceable("run.h5"));
  fs::current_path(before);
  EXPECT_EQ(read_run_file(file()).steps.size(), 1U);
}

TEST_F(RunFileTest, InconsistentRecordsAreNotWritten) {
  const auto expect_refused = [&](const std::function<void(RunRecord&)>& spoil) {
    RunRecord record = sample_run(4);
    spoil(record);
    EXPECT_THROW(write_run_file(file(), record), BugError);
    EXPECT_TRUE(names().empty());
  };
  expect_refused([](RunRecord& r) { r.vectors[0].value.pop_back(); });
  expect_refused([](RunRecord& r) { r.checkpoint.vector.push_back(0); });
  expect_refused([](RunRecord& r) { r.checkpoint.exp_avg.clear(); });
  expect_refused([](RunRecord& r) { r.checkpoint.exp_avg_sq.clear(); });
  expect_refused([](RunRecord& r) { r.attributes.hidden_size = 0; });
  expect_refused([](RunRecord& r) { r.attributes.higher_layers = {20}; });
  expect_refused([](RunRecord& r) {
    r = run_of_three_layers();
    r.attributes.higher_layers = {15, 20};
  });
  expect_refused([](RunRecord& r) {  // 4 times this hidden size is 2^64
    r.attributes.higher_layers = {16, 17, 18};
    r.attributes.hidden_size = std::int64_t{1} << 62;
    for (SavedVector& saved : r.vectors) {
      saved.value.clear();
    }
    for (const CheckpointPart& part : kCheckpointParts) {
      (r.checkpoint.*part.member).clear();
    }
  });
  expect_refused([](RunRecord& r) { r.attributes.config = "[1]"; });
  expect_refused([](RunRecord& r) { r.attributes.hosts = std::string("a\0b", 3); });
  expect_refused([](RunRecord& r) { r.steps[2].step = 1; });
  expect_refused([](RunRecord& r) { r.steps[2].sign = 2; });
}

TEST_F(RunFileTest, WhatIsNoRunFileIsAUserErrorThatNamesIt) {
  expect_parts(read_error(directory_ / "none.h5"), {"none.h5", "no such file"});
  expect_parts(read_error(directory_), {directory_.string(), "not a file"});
  put_bytes(file(), "");
  expect_parts(read_error(file()), {"run.h5", "not an HDF5 file"});
  put_bytes(file(), "question,matching,not_matching\n");
  expect_parts(read_error(file()), {"run.h5", "not an HDF5 file"});
  H5Fclose(H5Fcreate(file().c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT));
  expect_parts(read_error(file()), {"run.h5", "schema_version", "missing"});
}

TEST_F(RunFileTest, ANewerSchemaIsNamedBesideOurs) {
  edit([](hid_t id) { set_integer(id, "schema_version", 7); });
  expect_parts(read_error(file()), {"schema_version is 7", "up to 2", "newer bipo-dist"});
}

TEST_F(RunFileTest, WrongAttributesAreNamed) {
  edit([](hid_t id) { set_integer(id, "layer", -1); });
  expect_parts(read_error(file()), {"layer is -1"});
  edit([](hid_t id) { set_text(id, "status", "paused"); });
  expect_parts(read_error(file()), {"'paused'", "interrupted"});
  edit([](hid_t id) { set_text(id, "config", "{\"lr\":"); });
  expect_parts(read_error(file()), {"config"});
  edit([](hid_t id) { H5Adelete(id, "dtype"); });
  expect_parts(read_error(file()), {"'dtype' is missing"});
  edit([](hid_t id) {
    H5Adelete(id, "tp");
    const hid_t space = H5Screate(H5S_SCALAR);
    H5Aclose(H5Acreate2(id, "tp", H5T_IEEE_F64LE, space, H5P_DEFAULT, H5P_DEFAULT));
    H5Sclose(space);
  });
  expect_parts(read_error(file()), {"'tp' is not little-endian int64"});
}

TEST_F(RunFileTest, WrongDatasetsAreNamed) {
  edit([](hid_t id) { H5Ldelete(id, "evals", H5P_DEFAULT); });
  expect_parts(read_error(file()), {"'evals' is missing"});
  edit([](hid_t id) { H5Ldelete(id, "checkpoint/seed", H5P_DEFAULT); });
  expect_parts(read_error(file()), {"'seed' is missing"});
  edit([](hid_t id) { set_integer(id, "hidden_size", 7); });
  expect_parts(read_error(file()), {"6 elements", "hidden_size is 7"});

  const hid_t chunked = H5Pcreate(H5P_DATASET_CREATE);
  const hsize_t chunk = 3;
  H5Pset_chunk(chunked, 1, &chunk);
  H5Pset_alloc_time(chunked, H5D_ALLOC_TIME_EARLY);
  edit([&](hid_t id) { replace_dataset(id, "steps", H5T_IEEE_F64LE, {3}, chunked); });
  expect_parts(read_error(file()), {"'steps' is not a table"});
  const hid_t row = H5Tcreate(H5T_COMPOUND, sizeof(double));
  H5Tinsert(row, "step", 0, H5T_IEEE_F64LE);
  edit([&](hid_t id) { replace_dataset(id, "steps", row, {3}, chunked); });
  expect_parts(read_error(file()), {"column 'step' of 'steps' is not little-endian int64"});
  H5Tclose(row);
  edit([&](hid_t id) { replace_dataset(id, "vectors/step", H5T_STD_I64LE, {3}, chunked); });
  expect_parts(read_error(file()), {"2 values, 3 steps and 2 epochs"});
  edit([&](hid_t id) { replace_dataset(id, "checkpoint/vector", H5T_IEEE_F64LE, {3}, chunked); });
  expect_parts(read_error(file()), {"'vector' is not little-endian float32"});
  edit([&](hid_t id) {
    const hid_t space = H5Screate_simple(1, &chunk, nullptr);
    H5Dclose(
        H5Dcreate2(id, "vectors/layer", H5T_STD_I64LE, space, H5P_DEFAULT, chunked, H5P_DEFAULT));
    H5Sclose(space);
  });
  expect_parts(read_error(file()), {"of the layers 0, 0, 0", "the lowest is 15"});
  edit([](hid_t id) { replace_dataset(id, "vectors/value", H5T_IEEE_F32LE, {2, 3, 1}); });
  expect_parts(read_error(file()), {"'value' has 3 dimensions, expected 2"});
  H5Pclose(chunked);
}

TEST_F(RunFileTest, DimensionsWithoutDataAskForNoMemory) {
  const hid_t chunked = H5Pcreate(H5P_DATASET_CREATE);
  const hsize_t chunk = 1024;
  H5Pset_chunk(chunked, 1, &chunk);
  edit([&](hid_t id) {
    replace_dataset(id, "checkpoint/vector", H5T_IEEE_F32LE, {hsize_t{1} << 50}, chunked);
  });
  expect_parts(read_error(file()), {"'vector' claims more elements than the file holds"});
  H5Pclose(chunked);
}

TEST_F(RunFileTest, NothingOutsideTheFileIsRead) {
  write_run_file(directory_ / "other.h5", sample_run(4));
  edit([](hid_t id) {
    H5Ldelete(id, "steps", H5P_DEFAULT);
    H5Lcreate_external("other.h5", "steps", id, "steps", H5P_DEFAULT, H5P_DEFAULT);
  });
  expect_parts(read_error(file()), {"'steps' is a link"});
  edit([](hid_t id) {
    H5Ldelete(id, "checkpoint", H5P_DEFAULT);
    H5Lcreate_soft("/vectors", id, "checkpoint", H5P_DEFAULT, H5P_DEFAULT);
  });
  expect_parts(read_error(file()), {"'checkpoint' is a link"});
  const hid_t external = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_external(external, "other.h5", 0, 6 * sizeof(float));
  edit([&](hid_t id) { replace_dataset(id, "checkpoint/vector", H5T_IEEE_F32LE, {6}, external); });
  expect_parts(read_error(file()), {"'vector' is stored in a way"});
  H5Pclose(external);
}

TEST_F(RunFileTest, EveryTruncationIsAUserError) {
  write_run_file(file(), sample_run(4));
  const std::string whole = bytes_of(file());
  for (std::size_t size = 0; size < whole.size(); size += 97) {
    put_bytes(file(), whole.substr(0, size));
    EXPECT_THROW(read_run_file(file()), UserError) << size << " of " << whole.size() << " bytes";
  }
}

TEST_F(RunFileTest, EveryChangedByteIsFoundByTheSeal) {
  write_run_file(file(), sample_run(4));
  const std::string whole = bytes_of(file());
  for (std::size_t i = 0; i < whole.size() - 32; i += 211) {
    std::string bytes = whole;
    bytes[i] = static_cast<char>(bytes[i] ^ 1);
    put_bytes(file(), bytes);
    expect_parts(read_error(file()), {"run.h5: damaged", "the checksum at its end", "intact copy"});
  }
}

// The chunk's own checksum finds it, where the file has no seal.
TEST_F(RunFileTest, DamagedNumbersAreFoundByTheirChecksum) {
  write_run_file(file(), sample_run(4));
  std::string bytes = bytes_of(file());
  bytes.resize(bytes.size() - 32);
  const std::vector<float> values = sample_hidden(10);
  const std::string stored(reinterpret_cast<const char*>(values.data()),
                           values.size() * sizeof(float));
  const auto position = bytes.find(stored);
  ASSERT_NE(position, std::string::npos);
  bytes[position + 5] ^= 1;
  put_bytes(file(), bytes);
  expect_parts(read_error(file()), {"damaged", "H5Dread", "vector"});
}

TEST_F(RunFileTest, AFileOfAnEarlierVersionIsRead) {
  write_run_file(file(), sample_run(5));
  const hid_t id = H5Fopen(file().c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  drop_checksums(id);
  H5Fclose(id);
  expect_same_run(read_run_file(file()), sample_run(5));
}

TEST_F(RunFileTest, ChangedValuesAreNamed) {
  change([](hid_t id) { set_integer(id, "layer", 3); });
  expect_parts(read_error(file()), {"run.h5", "changed", "attributes", "docs/files.md"});
  change([](hid_t id) { set_text(id, "model", "elsewhere"); });
  expect_parts(read_error(file()), {"changed", "attributes"});
  change([](hid_t id) {
    const std::vector<float> other = sample_hidden(11);
    const hid_t dataset = H5Dopen2(id, "checkpoint/vector", H5P_DEFAULT);
    H5Dwrite(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, other.data());
    H5Dclose(dataset);
  });
  expect_parts(read_error(file()), {"changed", "'vector' does not match its checksum"});
  change([](hid_t id) {
    const std::int64_t step = 3;
    const hid_t dataset = H5Dopen2(id, "checkpoint/step", H5P_DEFAULT);
    H5Dwrite(dataset, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, &step);
    H5Dclose(dataset);
  });
  expect_parts(read_error(file()), {"changed", "'step' does not match its checksum"});
}

// Two datasets of one type under each other's names are what a damaged group looks like.
TEST_F(RunFileTest, SwappedDatasetsAreFound) {
  change([](hid_t id) {
    H5Lmove(id, "checkpoint/vector", id, "kept", H5P_DEFAULT, H5P_DEFAULT);
    H5Lmove(id, "checkpoint/exp_avg", id, "checkpoint/vector", H5P_DEFAULT, H5P_DEFAULT);
    H5Lmove(id, "kept", id, "checkpoint/exp_avg", H5P_DEFAULT, H5P_DEFAULT);
  });
  expect_parts(read_error(file()), {"'vector' does not match its checksum"});
}

// HDF5 gives zeros for a chunk that it does not find.
TEST_F(RunFileTest, ALostChunkIsFound) {
  change([](hid_t id) {
    hsize_t extent = 0;
    const hid_t dataset = H5Dopen2(id, "checkpoint/vector", H5P_DEFAULT);
    H5Dset_extent(dataset, &extent);
    extent = kSampleHidden;
    H5Dset_extent(dataset, &extent);
    H5Dclose(dataset);
  });
  const std::string message = read_error(file());
  EXPECT_TRUE(message.find("'vector' does not match its checksum") != std::string::npos ||
              message.find("'vector' claims more elements") != std::string::npos)
      << message;
}

TEST_F(RunFileTest, ALostChecksumIsFound) {
  change([](hid_t id) { H5Adelete_by_name(id, "evals", "checksum", H5P_DEFAULT); });
  expect_parts(read_error(file()), {"the checksum of 'evals' is missing"});
  change([](hid_t id) { H5Adelete(id, "checksum"); });
  expect_parts(read_error(file()), {"the checksum of the attributes is missing"});
}

TEST_F(RunFileTest, ALockOfAnotherProgramIsCalledThat) {
  write_run_file(file(), sample_run(4));
  const int descriptor = ::open(file().c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(::flock(descriptor, LOCK_EX), 0);
  EXPECT_NO_THROW(read_run_file(file())) << "locks are for those who ask for them";
  ::setenv("HDF5_USE_FILE_LOCKING", "TRUE", 1);
  expect_parts(read_error(file()), {"run.h5", "lock", "close it"});
  ::close(descriptor);
  EXPECT_NO_THROW(read_run_file(file()));
  ::unsetenv("HDF5_USE_FILE_LOCKING");
}

void add_text(hid_t object, const char* name, const char* value) {
  const hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, H5T_VARIABLE);
  const hid_t space = H5Screate(H5S_SCALAR);
  const hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
  ASSERT_GE(H5Awrite(attribute, type, &value), 0);
  H5Aclose(attribute);
  H5Sclose(space);
  H5Tclose(type);
}

std::string text_of(hid_t object, const char* name) {
  const hid_t attribute = H5Aopen(object, name, H5P_DEFAULT);
  const hid_t type = H5Aget_type(attribute);
  char* text = nullptr;
  EXPECT_GE(H5Aread(attribute, type, &text), 0) << name;
  const std::string value = text == nullptr ? "" : text;
  H5free_memory(text);
  H5Tclose(type);
  H5Aclose(attribute);
  return value;
}

void add_numbers(hid_t file, const char* name, int first) {
  const hsize_t count = 3;
  const int values[] = {first, first + 1, first + 2};
  const hid_t space = H5Screate_simple(1, &count, nullptr);
  const hid_t dataset =
      H5Dcreate2(file, name, H5T_STD_I32LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  H5Dwrite(dataset, H5T_NATIVE_INT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
  H5Dclose(dataset);
  H5Sclose(space);
}

int first_number(hid_t file, const char* name) {
  int values[3] = {};
  const hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
  H5Dread(dataset, H5T_NATIVE_INT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
  H5Dclose(dataset);
  return values[0];
}

TEST_F(RunFileTest, WhatOthersAddedIsKept) {
  change([](hid_t id) {
    add_text(id, "note", "for the paper");
    const hid_t steps = H5Dopen2(id, "steps", H5P_DEFAULT);
    add_text(steps, "smoothed", "no");
    H5Dclose(steps);
    H5Gclose(H5Gcreate2(id, "mine", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    add_numbers(id, "mine/ratings", 4);
    add_numbers(id, "vectors/labels", 7);
    H5Lcreate_soft("/mine/ratings", id, "shortcut", H5P_DEFAULT, H5P_DEFAULT);
    H5Lcreate_external("other.h5", "/there", id, "outside", H5P_DEFAULT, H5P_DEFAULT);
  });
  for (int round = 0; round < 2; ++round) {
    RunRecord record = read_run_to_continue(file());
    record.attributes.status = RunStatus::kInterrupted;
    write_run_file(file(), record);
    EXPECT_EQ(read_run_file(file()).attributes.status, RunStatus::kInterrupted);
    const hid_t id = H5Fopen(file().c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
    EXPECT_EQ(text_of(id, "note"), "for the paper");
    const hid_t steps = H5Dopen2(id, "steps", H5P_DEFAULT);
    EXPECT_EQ(text_of(steps, "smoothed"), "no");
    H5Dclose(steps);
    EXPECT_EQ(first_number(id, "mine/ratings"), 4);
    EXPECT_EQ(first_number(id, "vectors/labels"), 7);
    EXPECT_EQ(first_number(id, "shortcut"), 4);
    H5L_info_t link{};
    EXPECT_GE(H5Lget_info(id, "outside", &link, H5P_DEFAULT), 0);
    EXPECT_EQ(link.type, H5L_TYPE_EXTERNAL);
    H5Fclose(id);
  }
  write_run_file(file(), sample_run(4));
  EXPECT_EQ(read_run_to_continue(file()).additions, nullptr) << "a new run has none of them";
}

TEST_F(RunFileTest, WhatCannotBeKeptIsRefusedByAResumeOnly) {
  const auto continue_error = [&] {
    EXPECT_NO_THROW(read_run_file(file()));
    return error_of<UserError>([&] { read_run_to_continue(file()); });
  };
  change([](hid_t id) {
    const hid_t space = H5Screate(H5S_SCALAR);
    hobj_ref_t reference{};
    H5Rcreate(&reference, id, "/steps", H5R_OBJECT, -1);
    const hid_t attribute = H5Acreate2(id, "see", H5T_STD_REF_OBJ, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, H5T_STD_REF_OBJ, &reference);
    H5Aclose(attribute);
    H5Sclose(space);
  });
  expect_parts(continue_error(), {"run.h5", "'see'", "refers to other objects"});
  change([](hid_t id) { H5Lcreate_hard(id, "/steps", id, "alias", H5P_DEFAULT, H5P_DEFAULT); });
  expect_parts(continue_error(), {"run.h5", "'alias'", "several names"});
  change([](hid_t id) {
    const hsize_t count = hsize_t{65} << 20;
    const hid_t space = H5Screate_simple(1, &count, nullptr);
    H5Dclose(H5Dcreate2(id, "big", H5T_STD_I8LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    const hid_t big = H5Dopen2(id, "big", H5P_DEFAULT);
    const std::vector<char> zeros(count);
    H5Dwrite(big, H5T_NATIVE_CHAR, H5S_ALL, H5S_ALL, H5P_DEFAULT, zeros.data());
    H5Dclose(big);
    H5Sclose(space);
  });
  expect_parts(continue_error(), {"run.h5", "added 65 MiB", "at most 64 MiB"});
}

TEST_F(RunFileTest, CheckWritableTriesThePlace) {
  EXPECT_NO_THROW(check_replaceable(file()));
  EXPECT_TRUE(names().empty());
  EXPECT_THROW(check_replaceable(directory_), UserError);
  EXPECT_THROW(check_replaceable(directory_ / "none" / "run.h5"), UserError);
  EXPECT_THROW(check_replaceable(directory_ / std::string(300, 'x')), UserError);
  EXPECT_THROW(check_replaceable("/proc/run.h5"), UserError);
}

TEST_F(RunFileTest, AVanishedDirectoryFailsWithPathAndReason) {
  const std::string message = error_of<EnvironmentError>(
      [&] { write_run_file(directory_ / "none" / "run.h5", sample_run(1)); });
  expect_parts(message, {"none/run.h5", "No such file or directory"});
}

// The limit cuts the write short as a full disk would; in a child, because a limit cannot be raised
// again.
TEST_F(RunFileTest, AFailedSaveLeavesTheOldFileAndNoTemp) {
  write_run_file(file(), sample_run(2));
  const std::string before = bytes_of(file());
  const pid_t child = fork();
  if (child == 0) {
    const rlimit limit{10000, 10000};
    setrlimit(RLIMIT_FSIZE, &limit);
    std::string message;
    try {
      write_run_file(file(), sample_run(4));
    } catch (const EnvironmentError& error) {
      message = error.what();
    }
    const bool says_why = message.find(file().string()) != std::string::npos &&
                          message.find("write failed: File too large") != std::string::npos;
    _exit(says_why ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << "killed by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(bytes_of(file()), before);
  EXPECT_EQ(names(), std::vector<std::string>{"run.h5"});
}

TEST_F(RunFileTest, ARenameThatFailsRemovesTheTemp) {
  fs::create_directory(file());
  put_bytes(file() / "inside", "x");
  const std::string message =
      error_of<EnvironmentError>([&] { write_run_file(file(), sample_run(1)); });
  expect_parts(message, {"run.h5", "rename failed"});
  EXPECT_EQ(names(), std::vector<std::string>{"run.h5"});
}

TEST_F(RunFileTest, OnlyTempsOfThisHostsGoneWritersAreStale) {
  const std::string host = host_name();
  const std::string gone = std::to_string(gone_pid());
  const std::string stale = ".run.h5." + host + "." + gone + ".tmp";
  const std::vector<std::string> kept = {
      ".other.h5." + host + "." + gone + ".tmp",
      ".run.h5." + host + "." + std::to_string(getppid()) + ".tmp",
      ".run.h5." + host + "." + gone + "x.tmp",
      ".run.h5." + host + "..tmp",
      ".run.h5." + host + ".-1.tmp",
      ".run.h5.elsewhere." + gone + ".tmp",
      "run.h5." + host + "." + gone + ".tmp",
  };
  for (const std::string& name : kept) {
    put_bytes(directory_ / name, "x");
  }
  put_bytes(directory_ / stale, "x");
  remove_stale_temps(file());
  std::vector<std::string> expected = kept;
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(names(), expected);
  EXPECT_NO_THROW(remove_stale_temps(directory_ / "none" / "run.h5"));
}

// Three epochs, evaluated at -1 and +1, of which the second has the largest margin between them.
RunRecord run_with_a_best_epoch() {
  RunRecord record = sample_run(6);
  for (EvalRow& row : record.evals) {
    row.multiplier = row.multiplier == 1.5 ? 1 : row.multiplier;
  }
  record.evals[5].margin = 7.25;
  return record;
}

VectorSelection epoch_number(std::int64_t epoch) {
  return {VectorSelection::Kind::kEpoch, epoch};
}

TEST_F(RunFileTest, AVectorIsChosenByItsEpoch) {
  RunRecord record = run_with_a_best_epoch();
  write_run_file(file(), record);
  const auto chosen = [&](const VectorSelection& selection) {
    return read_stored_vector(file(), selection);
  };
  EXPECT_EQ(chosen({}).step, 6);
  EXPECT_EQ(chosen({VectorSelection::Kind::kLast}).step, 6);
  const StoredVector best = chosen({VectorSelection::Kind::kBest});
  EXPECT_EQ(best.step, 4);
  EXPECT_EQ(best.value, record.vectors[1].value);
  EXPECT_EQ(epoch_text(best), "epoch 2 of 3, the best");
  EXPECT_EQ(chosen(epoch_number(1)).value, record.vectors[0].value);
  EXPECT_EQ(epoch_text(chosen(epoch_number(1))), "epoch 1 of 3");
  expect_parts(error_of<UserError>([&] { chosen(epoch_number(4)); }),
               {"no vector of epoch 4", "its epochs are 1 to 3"});

  record.vectors.push_back(record.vectors[1]);  // as --select best ends a file
  write_run_file(file(), record);
  EXPECT_EQ(chosen({}).step, 4);
  EXPECT_EQ(chosen({VectorSelection::Kind::kLast}).step, 6);
  expect_parts(error_of<UserError>([&] { chosen(epoch_number(4)); }), {"its epochs are 1 to 3"});
}

TEST_F(RunFileTest, WithoutEvaluationsNoEpochIsTheBest) {
  write_run_file(file(), sample_run(6));  // evaluated at -1, 0 and 1.5
  expect_parts(
      error_of<UserError>([&] { read_stored_vector(file(), {VectorSelection::Kind::kBest}); }),
      {"run.h5: no epoch is the best", "-1 and 1", "run.h5:epoch=N, N from 1 to 3", "--test"});
}

std::optional<std::int64_t> stored_best_epoch(const fs::path& path) {
  const hdf5::Handle file = hdf5::open_file(path.string());
  const hdf5::Handle evals = hdf5::open_dataset(file, "evals");
  const auto names = hdf5::attribute_names(evals);
  return std::find(names.begin(), names.end(), "best_epoch") == names.end()
             ? std::nullopt
             : std::optional(hdf5::read_integer_attribute(evals, "best_epoch"));
}

TEST_F(RunFileTest, TheEvaluationsNameTheBestEpochAsTheirRowsCount) {
  write_run_file(file(), sample_run(6));
  EXPECT_EQ(stored_best_epoch(file()), std::nullopt);
  RunRecord record = run_with_a_best_epoch();
  write_run_file(file(), record);
  EXPECT_EQ(stored_best_epoch(file()), 1);
  record = read_run_to_continue(file());
  EXPECT_FALSE(record.additions) << "the attribute is the program's own";
  record.evals.back().margin = 99;
  write_run_file(file(), record);
  EXPECT_EQ(stored_best_epoch(file()), 2);
}

TEST(RunStatusNames, AreTheDesigns) {
  EXPECT_EQ(to_string(RunStatus::kRunning), "running");
  EXPECT_EQ(to_string(RunStatus::kComplete), "complete");
  EXPECT_EQ(to_string(RunStatus::kInterrupted), "interrupted");
}

}  // namespace
}  // namespace bipo
