// Models that are split over several GGUF files: which files belong together, and what is refused.
#include "trainer/model/gguf/gguf_parts.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "tests/support/errors.hpp"
#include "tests/support/gguf_bytes.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

using testing::encoded;
using testing::GgufBytes;
using testing::kTensorF32;

constexpr std::uint32_t kMetaUint16 = 2;

class GgufParts : public ::testing::Test {
 protected:
  GgufParts() {
    fs::create_directory(folder_);
    for (std::uint16_t i = 0; i < 3; ++i) {
      write(i, part(i));
    }
  }
  ~GgufParts() override { fs::remove_all(folder_); }

  // Part `index` of three has the tensors "a" and "b" of the first, nothing in the second, and "c".
  static GgufBytes part(std::uint16_t index, std::uint16_t count = 3) {
    GgufBytes file;
    if (index == 0) {
      file.add_text("general.architecture", "llama");
    }
    file.add_key("split.no", kMetaUint16, encoded(index));
    file.add_key("split.count", kMetaUint16, encoded(count));
    file.add_size("split.tensors.count", 3);
    if (index == 0) {
      file.add_tensor("a", {1}, kTensorF32, encoded(1.0F));
      file.add_tensor("b", {1}, kTensorF32, encoded(2.0F));
    }
    if (index == 2) {
      file.add_tensor("c", {1}, kTensorF32, encoded(3.0F));
    }
    return file;
  }

  fs::path path(std::uint16_t index) const {
    return folder_ / ("model-0000" + std::to_string(index + 1) + "-of-00003.gguf");
  }

  void write(std::uint16_t index, const GgufBytes& file) const {
    std::ofstream(path(index), std::ios::binary) << file.build();
  }

  std::string refusal(std::uint16_t named = 0) const {
    return testing::error_of<UserError>([&] { GgufFile{path(named)}; });
  }

  const fs::path folder_ =
      fs::path(::testing::TempDir()) /
      ("parts_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
};

TEST_F(GgufParts, AnyPartNamesTheModel) {
  for (std::uint16_t named = 0; named < 3; ++named) {
    const GgufFile file(path(named));
    EXPECT_EQ(file.path(), path(0));
    EXPECT_EQ(file.find_value("general.architecture")->text(), "llama");
    ASSERT_EQ(file.tensors().size(), 3U);
    EXPECT_EQ(file.path_of(*file.find_tensor("b")), path(0));
    EXPECT_EQ(file.path_of(*file.find_tensor("c")), path(2));
    float value = 0;
    std::memcpy(&value, file.find_tensor("c")->data.data(), sizeof(value));
    EXPECT_EQ(value, 3);
    file.let_go(*file.find_tensor("c"));
    EXPECT_EQ(file.find_tensor("d"), nullptr);
  }
}

TEST_F(GgufParts, FingerprintCoversEveryPart) {
  const std::uint64_t one = GgufFile(path(0)).fingerprint();
  EXPECT_EQ(GgufFile(path(2)).fingerprint(), one);
  GgufBytes other = part(2);
  other.data[1] ^= 1;
  write(2, other);
  EXPECT_NE(GgufFile(path(0)).fingerprint(), one);
}

TEST_F(GgufParts, OneOfOneIsAWholeFile) {
  GgufBytes file = part(0, 1);
  const fs::path whole = folder_ / "whole.gguf";
  std::ofstream(whole, std::ios::binary) << file.build();
  EXPECT_EQ(GgufFile(whole).tensors().size(), 2U);
}

TEST_F(GgufParts, MissingPartsAreNamed) {
  fs::remove(path(1));
  testing::expect_parts(refusal(), {path(0).string(), "part 1 of 3", "1 part is not beside it",
                                    "model-00002-of-00003.gguf", "one folder"});
  fs::remove(path(0));
  testing::expect_parts(refusal(2), {path(2).string(), "2 parts are", "model-00001-of-00003.gguf"});
}

TEST_F(GgufParts, NamesMustFitTheMetadata) {
  const fs::path renamed = folder_ / "first.gguf";
  fs::rename(path(0), renamed);
  testing::expect_parts(testing::error_of<UserError>([&] { GgufFile{renamed}; }),
                        {renamed.string(), "part 1 of 3", "-00001-of-00003.gguf"});
}

TEST_F(GgufParts, PartsOfOtherModelsAreRefused) {
  const auto refuses = [&](std::uint16_t index, const GgufBytes& file,
                           const std::vector<std::string>& says) {
    write(index, file);
    const std::string message = refusal();
    testing::expect_parts(message, says);
    write(index, part(index));
  };
  refuses(1, part(2), {path(1).string(), "part 2 of 3 by its name", "part 3 of 3 by its metadata"});
  refuses(1, part(1, 4), {path(1).string(), "part 2 of 4 by its metadata"});
  GgufBytes whole;
  whole.add_text("general.architecture", "llama");
  refuses(1, whole, {path(1).string(), "part 1 of 1 by its metadata"});
  GgufBytes repeated = part(1);
  repeated.add_tensor("b", {1}, kTensorF32, encoded(2.0F));
  refuses(1, repeated, {path(1).string(), "tensor b is in model-00001-of-00003.gguf too"});
  GgufBytes more = part(1);
  more.add_tensor("d", {1}, kTensorF32, encoded(2.0F));
  refuses(1, more, {path(0).string(), "split.tensors.count is 3", "4 tensors"});
  GgufBytes other = part(2);
  other.add_text("general.architecture", "qwen2");
  refuses(2, other, {path(2).string(), "general.architecture", "different models"});
  GgufBytes additional = part(2);
  additional.add_float("llama.rope.freq_base", 5);
  refuses(2, additional, {path(2).string(), "llama.rope.freq_base", "different models"});
  GgufBytes same = part(2);
  same.add_text("general.architecture", "llama");
  write(2, same);
  EXPECT_EQ(GgufFile(path(0)).tensors().size(), 3U);
}

TEST_F(GgufParts, MalformedNumbersAreRefused) {
  const auto refuses = [&](const char* key, std::uint32_t type, const std::string& value,
                           const char* says) {
    GgufBytes file;
    if (std::string_view(key) != "split.count") {
      file.add_key("split.count", kMetaUint16, encoded<std::uint16_t>(3));
    }
    file.add_key(key, type, value);
    write(0, file);
    testing::expect_parts(refusal(), {path(0).string(), says});
  };
  refuses("split.count", testing::kMetaString, testing::encoded_string("3"),
          "metadata split.count");
  refuses("split.count", 5, encoded<std::int32_t>(-3), "metadata split.count");
  refuses("split.count", 10, encoded<std::uint64_t>(1ULL << 40), "metadata split.count");
  refuses("split.no", kMetaUint16, encoded<std::uint16_t>(3), "metadata split.no");
}

TEST_F(GgufParts, PiecesOfACutFileAreToBeJoined) {
  for (const char* name : {"model.gguf.part1of2", "model.gguf-split-a", "model.gguf.part-aa"}) {
    const fs::path piece = folder_ / name;
    std::ofstream(piece, std::ios::binary) << part(0).build();
    testing::expect_parts(testing::error_of<UserError>([&] { GgufFile{piece}; }),
                          {piece.string(), "cut", "cat PIECE1 PIECE2 ... > model.gguf"});
  }
}

}  // namespace
}  // namespace bipo
