#include "trainer/cache/activation_file.hpp"

#include <ATen/ops/rand.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "collectives/self_communicator.hpp"
#include "trainer/cache/temporary_files.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

// Three blocks, the last of which is short, with padding before the numbers.
constexpr StoreShape kShape = {.tokens = 1001, .hidden = 1111, .pairs = 30, .type = at::kBFloat16};

class ActivationFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() / ("bipo-activations-" + std::to_string(::getpid()));
    fs::create_directories(directory_);
    store_.activations().copy_(at::rand({kShape.tokens, kShape.hidden}));
    for (int i = 0; i <= 2 * kShape.pairs; ++i) {
      store_.numbers()[i] = -0.5 * i;
    }
  }
  void TearDown() override { fs::remove_all(directory_); }

  ActivationFile open(const StoreShape& shape = kShape, std::uint64_t key = 7) const {
    return {shape, directory_, key, /*trusts_others=*/false};
  }

  // Reads it as so many ranks do; returns the worst that any of them finds.
  FileFlaw read_back(int parts) const {
    const ActivationFile file = open();
    if (file.flaw() != FileFlaw::kNone) {
      return file.flaw();
    }
    SelfCommunicator node;
    const ActivationStore copy(kShape, {}, node);
    FileFlaw worst = FileFlaw::kNone;
    for (int part = 0; part < parts; ++part) {
      worst = std::max(worst, file.read(copy, part, parts));
    }
    if (worst == FileFlaw::kNone) {
      EXPECT_TRUE(std::ranges::equal(copy.bytes(), store_.bytes()));
    }
    return worst;
  }

  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(directory_)) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }

  void flip(std::uint64_t place) const {
    std::fstream file(open().path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(place));
    const int byte = file.get();
    file.seekp(static_cast<std::streamoff>(place));
    file.put(static_cast<char>(byte ^ 16));
  }

  fs::path directory_;
  SelfCommunicator node_;
  ActivationStore store_{kShape, {}, node_};
};

TEST_F(ActivationFileTest, HoldsWhatTheStoreHeld) {
  EXPECT_EQ(open().flaw(), FileFlaw::kAbsent);
  ASSERT_FALSE(open().write(store_));
  EXPECT_EQ(names(), std::vector<std::string>{"0000000000000007.activations"});
  struct stat status {};
  ASSERT_EQ(::stat(open().path().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600U);
  for (const int parts : {1, 2, 3, 5}) {
    EXPECT_EQ(read_back(parts), FileFlaw::kNone) << parts;
  }
}

TEST_F(ActivationFileTest, DamageInAnyPlaceIsFoundByTheRankThatReadsIt) {
  ASSERT_FALSE(open().write(store_));
  const std::uint64_t size = fs::file_size(open().path());
  std::vector<std::uint64_t> places;
  for (std::uint64_t place = 0; place < size; place += 65521) {
    places.push_back(place);
  }
  for (std::uint64_t place = kShape.bytes() - 500; place < size; ++place) {
    places.push_back(place);  // padding, numbers, checksums and seal
  }
  for (const std::uint64_t place : places) {
    flip(place);
    EXPECT_EQ(read_back(2), FileFlaw::kDamaged) << place << " of " << size;
    flip(place);
  }
  EXPECT_EQ(read_back(2), FileFlaw::kNone);
  for (const std::uint64_t other : {std::uint64_t{0}, size - 1, size + 1}) {
    fs::resize_file(open().path(), other);
    EXPECT_EQ(open().flaw(), FileFlaw::kWrongSize);
  }
}

TEST_F(ActivationFileTest, AFileOfAnotherKeyOrShapeIsNotTaken) {
  ASSERT_FALSE(open().write(store_));
  fs::copy_file(open().path(), directory_ / "0000000000000008.activations");
  EXPECT_EQ(open(kShape, 8).flaw(), FileFlaw::kDamaged);
  StoreShape turned = kShape;
  std::swap(turned.tokens, turned.hidden);
  EXPECT_EQ(open(turned).flaw(), FileFlaw::kDamaged);  // the size is the same
  StoreShape more = kShape;
  ++more.pairs;
  EXPECT_EQ(open(more).flaw(), FileFlaw::kWrongSize);
}

TEST_F(ActivationFileTest, AFileThatBecomesShorterWhileItIsOpenCannotBeRead) {
  ASSERT_FALSE(open().write(store_));
  const ActivationFile file = open();
  fs::resize_file(file.path(), 1000);
  EXPECT_EQ(file.read(store_, 0, 1), FileFlaw::kUnreadable);
}

TEST_F(ActivationFileTest, WhatCannotBeWrittenIsSaid) {
  const ActivationFile nowhere(kShape, directory_ / "missing", 7, false);
  const auto problem = nowhere.write(store_);
  ASSERT_TRUE(problem);
  EXPECT_EQ(WriteProblem::from_code(problem->code()).described(),
            "open: No such file or directory");
  fs::create_directory(open().path());
  const auto taken = open().write(store_);
  ASSERT_TRUE(taken);
  EXPECT_EQ(taken->described(), "rename: Is a directory");
  EXPECT_EQ(names(), std::vector<std::string>{"0000000000000007.activations"});
}

TEST_F(ActivationFileTest, OnlyWhatNobodyWritesIsRemoved) {
  char host[256] = {};
  ::gethostname(host, sizeof(host) - 1);
  const std::string begin = "0000000000000007.activations.";
  const auto path = [&](const std::string& maker, const char* end) {
    return directory_ / (begin + maker + ".1.00000000000000aa" + end);
  };
  const TemporaryFile living(path(host, ".locked.tmp"));
  const TemporaryFile old_living(path("elsewhere", ".locked.tmp"));
  const std::vector<fs::path> stay = {path("other-host", ".locked.tmp"), path(host, ".tmp"),
                                      directory_ / "results.tmp"};
  const std::vector<fs::path> go = {path(std::string(host) + ".2", ".locked.tmp"),
                                    path("long-ago", ".locked.tmp"), path("long-ago", ".tmp")};
  for (const auto& paths : {stay, go}) {
    for (const fs::path& each : paths) {
      std::ofstream(each) << "part";
    }
  }
  const auto old = fs::file_time_type::clock::now() - std::chrono::hours(30);
  for (const fs::path& each : {go[1], go[2], path("elsewhere", ".locked.tmp"), stay[2]}) {
    fs::last_write_time(each, old);
  }
  remove_abandoned_stores(directory_);
  for (const fs::path& each : stay) {
    EXPECT_TRUE(fs::exists(each)) << each;
  }
  for (const fs::path& each : go) {
    EXPECT_FALSE(fs::exists(each)) << each;
  }
  EXPECT_TRUE(fs::exists(path(host, ".locked.tmp")));
  EXPECT_TRUE(fs::exists(path("elsewhere", ".locked.tmp")));
}

}  // namespace
}  // namespace bipo
