// Which pages of a model's file a rank reads with its part, and which remain in memory.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "tests/support/errors.hpp"
#include "tests/support/tiny_model.hpp"
#include "trainer/model/weights/safetensors.hpp"
#include "trainer/model/weights/tensor_check.hpp"

namespace bipo {
namespace {

constexpr std::int64_t kRows = 2048;
constexpr std::int64_t kColumns = 1024;
constexpr std::uintmax_t kBytes = kRows * kColumns * sizeof(float);

// One float32 matrix in a file of its own; row r holds r + 0.5.
class Loading : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = std::filesystem::temp_directory_path() /
            ("bipo-loading-" + std::to_string(getpid()) + ".safetensors");
    std::string header =
        R"({"matrix":{"dtype":"F32","shape":[2048,1024],"data_offsets":[0,8388608]}})";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    std::ofstream file(path_, std::ios::binary);
    const std::uint64_t size = header.size();
    file.write(reinterpret_cast<const char*>(&size), sizeof(size));
    file << header;
    for (std::int64_t row = 0; row < kRows; ++row) {
      const std::vector<float> values(kColumns, static_cast<float>(row) + 0.5F);
      file.write(reinterpret_cast<const char*>(values.data()), kColumns * sizeof(float));
    }
    begin_ = sizeof(size) + header.size();
  }

  void TearDown() override { std::filesystem::remove(path_); }

  // Counts the bytes of the file in this process's memory.
  std::uint64_t resident_bytes() const {
    std::ifstream maps("/proc/self/smaps");
    std::string line;
    bool is_file = false;
    while (std::getline(maps, line)) {
      if (line.find('-') < line.find(' ')) {
        is_file = line.ends_with(path_.string());
      } else if (is_file && line.starts_with("Rss:")) {
        return std::stoull(line.substr(4)) * 1024;
      }
    }
    ADD_FAILURE() << "the file is not mapped";
    return 0;
  }

  std::filesystem::path path_;
  std::uintmax_t begin_ = 0;  // of the matrix in the file
};

using LoadingDeathTest = Loading;

TEST_F(LoadingDeathTest, RowsOfOtherRanksAreNotTouched) {
  const SafetensorsFile file(path_);
  const Range mine = {0, kRows / 2};
  // Pages behind the end of a file cannot be touched.
  std::filesystem::resize_file(path_, begin_ + kBytes / 2);
  const at::Tensor slice = file.read("matrix", {mine, {0, kColumns}});
  EXPECT_EQ(slice[kRows / 2 - 1][kColumns - 1].item<float>(), kRows / 2 - 0.5F);
  const auto read_cut_off_rows = [&] {
    std::signal(SIGBUS, SIG_DFL);  // AddressSanitizer has a handler of its own
    file.read("matrix", {{kRows / 2 + 8, kRows}, {0, kColumns}});
  };
  EXPECT_EXIT(read_cut_off_rows(), ::testing::KilledBySignal(SIGBUS), "");
}

TEST_F(Loading, WhatWasReadDoesNotStay) {
  const SafetensorsFile file(path_);
  for (const Slice& slice : {Slice{{0, kRows}, {0, kColumns}}, Slice{{3, kRows - 5}, {7, 900}},
                             Slice{{0, kRows / 2}, {0, kColumns}}}) {
    const at::Tensor values = file.read("matrix", slice);
    EXPECT_LT(resident_bytes(), kBytes / 16);
    EXPECT_EQ(values[0][0].item<float>(), static_cast<float>(slice.rows.begin) + 0.5F);
    EXPECT_EQ(values[-1][-1].item<float>(), static_cast<float>(slice.rows.end) - 0.5F);
  }
}

// Weights with some numbers replaced.
class PoisonedWeights final : public WeightSource {
 public:
  explicit PoisonedWeights(const ModelConfig& config) : weights_(config) {
    const float nan = std::nanf("");
    weights_.whole(Role::kEmbedding).select(0, 5).fill_(INFINITY);            // 20 numbers
    weights_.whole(Role::kDown, 1).select(1, 22).narrow(0, 2, 3).fill_(nan);  // 3
    weights_.whole(Role::kMlpNorm, 2).select(0, 19).fill_(-INFINITY);
  }
  at::Tensor read(Role role, std::int64_t block, const Slice& slice) const override {
    return weights_.read(role, block, slice);
  }
  std::string place(Role role, std::int64_t block) const override {
    return "role " + std::to_string(static_cast<int>(role)) + " of " + std::to_string(block);
  }
  std::uint64_t fingerprint() const override { return 0; }

 private:
  testing::RandomWeights weights_;
};

TEST(FiniteWeights, PartsAddUpForAnyNumberOfThem) {
  const ModelConfig config = testing::tiny_config();
  const PoisonedWeights weights(config);
  for (const std::int64_t parts : {1, 2, 3, 7, 64}) {
    std::vector<std::int64_t> sums;
    for (std::int64_t part = 0; part < parts; ++part) {
      const std::vector<std::int64_t> counts = count_non_finite(weights, config, parts, part);
      sums.resize(counts.size());
      for (std::size_t i = 0; i < counts.size(); ++i) {
        sums[i] += counts[i];
      }
    }
    const auto place = [&](Role role, std::int64_t block) { return weights.place(role, block); };
    testing::expect_parts(
        testing::error_of<UserError>([&] { require_finite(weights, config, sums); }),
        {"3 tensors", place(Role::kEmbedding, 0) + ": 20 of", place(Role::kDown, 1) + ": 3 of",
         place(Role::kMlpNorm, 2) + ": 1 of"});
  }
}

TEST(FiniteWeights, SoundOnesPass) {
  const ModelConfig config = testing::tiny_config();
  const testing::RandomWeights weights(config);
  require_finite(weights, config, count_non_finite(weights, config, 1, 0));
}

}  // namespace
}  // namespace bipo
