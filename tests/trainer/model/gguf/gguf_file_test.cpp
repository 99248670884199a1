// GGUF files built byte by byte: what is read from them, and what is refused.
#include "trainer/model/gguf/gguf_file.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "collectives/foundation/errors.hpp"
#include "tests/support/errors.hpp"
#include "tests/support/gguf_bytes.hpp"

namespace bipo {
namespace {

using testing::encoded;
using testing::encoded_string;
using testing::GgufBytes;
using testing::kMetaString;
using testing::kTensorF16;
using testing::kTensorF32;
using testing::kTensorQ8_0;

std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

GgufContents parse(const std::string& bytes) {
  return parse_gguf(as_bytes(bytes), "made.gguf");
}

std::string refusal(const std::string& bytes) {
  return testing::error_of<UserError>([&] { parse(bytes); });
}

// A file with a key of every type, an array of each kind, and two tensors.
GgufBytes sample() {
  GgufBytes file;
  file.add_key("a.uint8", 0, encoded<std::uint8_t>(200));
  file.add_key("a.int8", 1, encoded<std::int8_t>(-100));
  file.add_key("a.uint16", 2, encoded<std::uint16_t>(60000));
  file.add_key("a.int16", 3, encoded<std::int16_t>(-30000));
  file.add_key("a.uint32", 4, encoded<std::uint32_t>(4000000000U));
  file.add_key("a.int32", 5, encoded<std::int32_t>(-2000000000));
  file.add_key("a.float32", 6, encoded(1e-5F));
  file.add_key("a.bool", 7, encoded<std::uint8_t>(1));
  file.add_key("a.string", 8, encoded_string("text\xFF"));
  file.add_key("a.uint64", 10, encoded<std::uint64_t>(1ULL << 62));
  file.add_key("a.int64", 11, encoded<std::int64_t>(-(1LL << 62)));
  file.add_key("a.float64", 12, encoded(0.1));
  file.add_array("b.strings", 8, 3,
                 encoded_string("x") + encoded_string("") + encoded_string("yz"));
  file.add_array("b.int32", 5, 2, encoded<std::int32_t>(-1) + encoded<std::int32_t>(7));
  file.add_array("b.float32", 6, 2, encoded(1.5F) + encoded(-2.0F));
  file.add_array("b.empty", 4, 0, "");
  file.add_tensor("matrix", {3, 2}, kTensorF32, std::string(24, 'm'));
  file.add_tensor("blocks", {64}, kTensorQ8_0, std::string(68, 'q'));
  return file;
}

TEST(GgufFile, ReadsScalarsOfEveryType) {
  const std::string bytes = sample().build();
  const GgufContents contents = parse(bytes);
  const auto value = [&](const char* key) { return contents.metadata.at(key); };
  EXPECT_EQ(value("a.uint8").integer(), 200);
  EXPECT_EQ(value("a.int8").integer(), -100);
  EXPECT_EQ(value("a.uint16").integer(), 60000);
  EXPECT_EQ(value("a.int16").integer(), -30000);
  EXPECT_EQ(value("a.uint32").integer(), 4000000000);
  EXPECT_EQ(value("a.int32").integer(), -2000000000);
  EXPECT_EQ(value("a.uint64").integer(), 1LL << 62);
  EXPECT_EQ(value("a.int64").integer(), -(1LL << 62));
  EXPECT_EQ(value("a.float32").number(), 1e-5);
  EXPECT_EQ(value("a.float64").number(), 0.1);
  EXPECT_EQ(value("a.uint8").number(), 200);
  EXPECT_EQ(value("a.bool").boolean(), true);
  EXPECT_EQ(value("a.string").text(), "text\xFF");
}

TEST(GgufFile, ReadsArrays) {
  const std::string bytes = sample().build();
  const GgufContents contents = parse(bytes);
  EXPECT_EQ(contents.metadata.at("b.strings").texts(),
            (std::vector<std::string_view>{"x", "", "yz"}));
  EXPECT_EQ(contents.metadata.at("b.int32").integers(), (std::vector<std::int64_t>{-1, 7}));
  EXPECT_EQ(contents.metadata.at("b.float32").floats(), (std::vector<float>{1.5F, -2.0F}));
  EXPECT_EQ(contents.metadata.at("b.empty").integers(), std::vector<std::int64_t>{});
}

TEST(GgufFile, GivesNothingWhereTheTypeIsAnother) {
  const std::string bytes = sample().build();
  const GgufContents contents = parse(bytes);
  EXPECT_FALSE(contents.metadata.at("a.string").integer());
  EXPECT_FALSE(contents.metadata.at("a.string").number());
  EXPECT_FALSE(contents.metadata.at("a.uint32").text());
  EXPECT_FALSE(contents.metadata.at("a.uint8").boolean());
  EXPECT_FALSE(contents.metadata.at("a.bool").integer());
  EXPECT_FALSE(contents.metadata.at("b.int32").integer());
  EXPECT_FALSE(contents.metadata.at("b.strings").text());
  EXPECT_FALSE(contents.metadata.at("b.float32").integers());
  GgufBytes large;
  large.add_key("k", 10, encoded<std::uint64_t>(1ULL << 63));
  const std::string large_bytes = large.build();
  EXPECT_FALSE(parse(large_bytes).metadata.at("k").integer());
}

TEST(GgufFile, ReadsWhereTensorsLie) {
  const std::string bytes = sample().build();
  const GgufContents contents = parse(bytes);
  ASSERT_EQ(contents.tensors.size(), 2U);
  const GgufTensor& matrix = contents.tensors.at("matrix");
  EXPECT_EQ(matrix.shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(matrix.format.type, GgmlType::kF32);
  ASSERT_EQ(matrix.data.size(), 24U);
  EXPECT_EQ(matrix.data.front(), std::byte{'m'});
  const GgufTensor& blocks = contents.tensors.at("blocks");
  ASSERT_EQ(blocks.data.size(), 68U);
  EXPECT_EQ(blocks.data.back(), std::byte{'q'});
  EXPECT_EQ(blocks.data.data() + 68, as_bytes(bytes).data() + bytes.size());
}

TEST(GgufFile, AcceptsVersionTwoAndOtherAlignments) {
  GgufBytes file;
  file.version = 2;
  file.alignment = 128;
  file.add_size("general.alignment", 128);
  file.add_tensor("a", {1}, kTensorF32, "abcd");
  file.add_tensor("b", {1}, kTensorF32, "efgh");
  const std::string bytes = file.build();
  EXPECT_EQ(parse(bytes).tensors.at("b").data.front(), std::byte{'e'});
}

TEST(GgufFile, EveryCutIsRefused) {
  const std::string bytes = sample().build();
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    // A copy of that very size, so that a sanitizer sees a read behind its end.
    const std::string cut(bytes.data(), length);
    EXPECT_THROW(parse(cut), UserError) << length;
  }
}

TEST(GgufFile, DamagedBytesAreRefusedOrStayWithinTheFile) {
  const std::string good = sample().build();
  std::mt19937 random(5);
  int accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = good;
    for (int change = 0; change < 3; ++change) {
      bytes[random() % bytes.size()] = static_cast<char>(random() % 4 == 0 ? 0xFF : random());
    }
    try {
      const GgufContents contents = parse(bytes);
      ++accepted;
      for (const auto& [name, tensor] : contents.tensors) {
        EXPECT_GE(tensor.data.data(), as_bytes(bytes).data());
        EXPECT_LE(tensor.data.data() + tensor.data.size(), as_bytes(bytes).data() + bytes.size());
      }
      for (const auto& [key, value] : contents.metadata) {
        value.texts();
        value.integers();
        value.floats();
        value.text();
      }
    } catch (const UserError&) {
    }
  }
  EXPECT_GT(accepted, 100);
}

struct BadFile {
  const char* name;
  std::function<void(GgufBytes&)> damage;
  std::vector<std::string> says;
};

const std::vector<BadFile>& bad_files() {
  static const std::vector<BadFile> files = {
      {"magic", [](GgufBytes& f) { f.magic = "ggjt"; }, {"not a GGUF file"}},
      {"version_1", [](GgufBytes& f) { f.version = 1; }, {"GGUF version 1", "2 and 3"}},
      {"version_4", [](GgufBytes& f) { f.version = 4; }, {"GGUF version 4"}},
      {"big_endian", [](GgufBytes& f) { f.version = 0x03000000; }, {"big-endian"}},
      {"repeated_key", [](GgufBytes& f) { f.add_size("a.int8", 1); }, {"a.int8 appears twice"}},
      {"unknown_value_type",
       [](GgufBytes& f) { f.add_key("k", 13, ""); },
       {"metadata k has type 13", "unknown"}},
      {"array_of_arrays",
       [](GgufBytes& f) { f.add_array("k", 9, 1, std::string(20, '\0')); },
       {"metadata k", "array of arrays"}},
      {"array_of_unknown_type", [](GgufBytes& f) { f.add_array("k", 77, 1, "x"); }, {"type 77"}},
      {"endless_array",
       [](GgufBytes& f) { f.add_array("k", 10, 1ULL << 61, ""); },
       {"metadata k claims 2305843009213693952 elements"}},
      {"endless_strings",
       [](GgufBytes& f) { f.add_array("k", 8, 1ULL << 63, ""); },
       {"metadata k", "needs"}},
      {"endless_string",
       [](GgufBytes& f) { f.add_key("k", kMetaString, encoded<std::uint64_t>(~0ULL)); },
       {"metadata k", "18446744073709551615 bytes"}},
      {"neither_true_nor_false",
       [](GgufBytes& f) { f.add_key("k", 7, encoded<std::uint8_t>(2)); },
       {"metadata k is neither true nor false"}},
      {"empty_key", [](GgufBytes& f) { f.add_size("", 1); }, {"a metadata key", "0 bytes"}},
      {"unprintable_key", [](GgufBytes& f) { f.add_size("\x1B[2J", 1); }, {"not printable"}},
      {"long_tensor_name",
       [](GgufBytes& f) { f.add_tensor(std::string(65, 'n'), {1}, kTensorF32, "1234"); },
       {"tensor's name", "65 bytes"}},
      {"repeated_tensor",
       [](GgufBytes& f) { f.add_tensor("matrix", {1}, kTensorF32, "1234"); },
       {"tensor matrix appears twice"}},
      {"no_dimensions",
       [](GgufBytes& f) { f.add_tensor("t", {}, kTensorF32, "1234"); },
       {"tensor t has 0 dimensions"}},
      {"five_dimensions",
       [](GgufBytes& f) {
         f.add_tensor("t", {1, 1, 1, 1, 1}, kTensorF32, "1234");
       },
       {"tensor t has 5 dimensions"}},
      {"extent_of_nothing",
       [](GgufBytes& f) {
         f.add_info("t", {4, 0}, kTensorF32, 0);
       },
       {"tensor t has an extent of 0"}},
      {"negative_extent",
       [](GgufBytes& f) { f.add_info("t", {~0ULL}, kTensorF32, 0); },
       {"tensor t has an extent of 18446744073709551615"}},
      {"size_that_wraps_to_zero",
       [](GgufBytes& f) {
         f.add_info("t", {1ULL << 32, 1ULL << 32}, kTensorF32, 0);
       },
       {"tensor t", "too large"}},
      {"size_that_wraps_in_bytes",
       [](GgufBytes& f) {
         f.add_info("t", {1ULL << 62, 1}, kTensorF32, 0);
       },
       {"tensor t", "too large"}},
      {"part_of_a_block",
       [](GgufBytes& f) {
         f.add_info("t", {48, 2}, kTensorQ8_0, 0);
       },
       {"tensor t of type Q8_0 has rows of 48", "blocks of 32"}},
      {"type_that_is_not_decoded",
       [](GgufBytes& f) { f.add_info("t", {256}, 41, 0); },
       {"tensor t is of type Q1_0", "Q4_K"}},
      {"type_that_does_not_exist",
       [](GgufBytes& f) { f.add_info("t", {256}, 999, 0); },
       {"tensor t is of type 999,"}},
      {"misaligned",
       [](GgufBytes& f) { f.add_info("t", {1}, kTensorF32, 100); },
       {"tensor t begins at byte 100", "not a multiple of 32"}},
      {"behind_the_end",
       [](GgufBytes& f) { f.add_info("t", {1}, kTensorF32, 1ULL << 40); },
       {"tensor t takes 4 bytes from byte 1099511627776"}},
      {"offset_that_wraps",
       [](GgufBytes& f) { f.add_info("t", {64}, kTensorF32, ~0ULL - 31); },
       {"tensor t takes 256"}},
      {"over_the_end",
       [](GgufBytes& f) { f.add_info("t", {1000}, kTensorF32, 0); },
       {"tensor t takes 4000 bytes"}},
      {"overlap",
       [](GgufBytes& f) { f.add_info("t", {16}, kTensorF16, 32); },
       {"tensors", "blocks", "t", "overlap at byte 32"}},
      {"alignment",
       [](GgufBytes& f) { f.add_size("general.alignment", 48); },
       {"general.alignment", "power of two"}},
      {"no_alignment",
       [](GgufBytes& f) { f.add_size("general.alignment", 0); },
       {"general.alignment"}},
  };
  return files;
}

class BadGguf : public ::testing::TestWithParam<std::size_t> {};

TEST_P(BadGguf, IsRefusedByName) {
  const BadFile& bad = bad_files()[GetParam()];
  GgufBytes file = sample();
  bad.damage(file);
  const std::string message = refusal(file.build());
  testing::expect_parts(message, bad.says);
  testing::expect_parts(message, {"made.gguf: "});
}

INSTANTIATE_TEST_SUITE_P(Files, BadGguf, ::testing::Range<std::size_t>(0, bad_files().size()),
                         [](const auto& parameter) {
                           return std::string(bad_files()[parameter.param].name);
                         });

TEST(GgufFile, CountsThatNoFileCouldHoldAreRefused) {
  const std::string counts = std::string("GGUF") + encoded<std::uint32_t>(3);
  testing::expect_parts(refusal(counts + encoded<std::uint64_t>(~0ULL) + encoded<std::uint64_t>(0)),
                        {"tensor's name", "cut short"});
  testing::expect_parts(refusal(counts + encoded<std::uint64_t>(0) + encoded<std::uint64_t>(~0ULL)),
                        {"metadata key", "cut short"});
}

}  // namespace
}  // namespace bipo
