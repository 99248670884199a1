// Arrays of numpy.save: those that NumPy wrote, and files that lie about theirs.
#include "experiments/formats/npy_reader.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "collectives/foundation/errors.hpp"
#include "tests/support/errors.hpp"
#include "tests/support/gguf_bytes.hpp"
#include "tests/support/torch_bytes.hpp"

namespace bipo {
namespace {

using testing::as_bytes;
using testing::encoded;
using testing::error_of;
using testing::expect_parts;

const std::string kFour = encoded(0.5F) + encoded(-1.25F) + encoded(3.0F) + encoded(4.0F);

std::string npy(const std::string& description, const std::string& data) {
  return std::string("\x93NUMPY\x01\0", 8) +
         encoded(static_cast<std::uint16_t>(description.size())) + description + data;
}

std::string described(const std::string& type, const std::string& order, const std::string& shape) {
  return "{'descr': '" + type + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }  \n";
}

NamedTensor read(const std::string& bytes) {
  return read_npy(as_bytes(bytes), "made.npy");
}

std::string refusal(const std::string& bytes) {
  return error_of<UserError>([&] { read(bytes); });
}

TEST(NpyReader, VectorsAndTables) {
  const NamedTensor vector = read(npy(described("<f4", "False", "(4,)"), kFour));
  EXPECT_EQ(vector.rows, 1);
  EXPECT_EQ(vector.values, (std::vector<float>{0.5F, -1.25F, 3, 4}));
  EXPECT_EQ(vector.layer, std::nullopt);
  const NamedTensor table = read(npy(described("<f4", "False", "(2, 2)"), kFour));
  EXPECT_EQ(table.rows, 2);
  EXPECT_EQ(table.values, vector.values);
  EXPECT_EQ(read(npy(described("<f4", "True", "(2, 2)"), kFour)).values,
            (std::vector<float>{0.5F, 3, -1.25F, 4}));
  EXPECT_EQ(read(npy(described("<f4", "True", "(1, 4)"), kFour)).values, vector.values);
}

TEST(NpyReader, TypesAndVersions) {
  const std::string halves("\x00\x38\x00\xbd", 4);  // 0.5, -1.25
  EXPECT_EQ(read(npy(described("<f2", "False", "(2,)"), halves)).values,
            (std::vector<float>{0.5F, -1.25F}));
  EXPECT_EQ(read(npy(described("<f8", "False", "(1,)"), encoded(0.1))).values,
            (std::vector<float>{0.1F}));
  const std::string text = described("<f4", "False", "(4,)");
  for (const char version : {2, 3}) {
    const std::string bytes = std::string("\x93NUMPY") + version + std::string(1, '\0') +
                              encoded(static_cast<std::uint32_t>(text.size())) + text + kFour;
    EXPECT_EQ(read(bytes).values.size(), 4U);
  }
  expect_parts(refusal(npy(described(">f4", "False", "(4,)"), kFour)), {">f4", "little-endian"});
  expect_parts(refusal(npy(described("|O", "False", "(4,)"), kFour)), {"Python objects", "pickle"});
  expect_parts(refusal(npy(described("<i4", "False", "(4,)"), kFour)), {"<i4"});
}

TEST(NpyReader, FilesThatLie) {
  const std::string text = described("<f4", "False", "(4,)");
  expect_parts(refusal(npy(text, kFour + "x")), {"made.npy", "17 bytes"});
  expect_parts(refusal(npy(described("<f4", "False", "(4611686018427387904, 4)"), kFour)),
               {"[4611686018427387904, 4]"});
  for (const char* shape : {"()", "(0,)", "(0, 4)", "(2, 2, 1)"}) {
    expect_parts(refusal(npy(described("<f4", "False", shape), kFour)), {"of shape ["});
  }
  for (const char* wrong :
       {"", "{", "{}", "{'descr': '<f4'}", "[1]", "{'descr': <f4, 'fortran_order': False}",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (4,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-4,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4 4)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4,)} x",
        "{'descr': '<f4', 'descr': '<f4', 'shape': (1,2,3,4,5,6,7,8,9)}"}) {
    expect_parts(refusal(npy(wrong, kFour)), {"a description that is not"});
  }
  expect_parts(
      refusal(npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (4,)}", kFour)),
      {"records"});
  expect_parts(refusal(npy("{'other': 1}", kFour)), {"the key 'other'"});
  expect_parts(refusal(npy(text + std::string(1, '\0'), kFour)), {"a description that is not"});
  std::string version = npy(text, kFour);
  version[6] = 4;
  expect_parts(refusal(version), {"version 4"});
}

TEST(NpyReader, FilesCutOffAnywhere) {
  const std::string bytes = npy(described("<f4", "False", "(2, 2)"), kFour);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    // A copy of its own, so that sanitizers see a read beyond the end.
    const std::vector<char> part(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_THROW(read_npy(std::as_bytes(std::span(part)), "made.npy"), UserError) << size;
  }
}

}  // namespace
}  // namespace bipo
