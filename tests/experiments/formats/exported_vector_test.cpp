// What exported files hold, as far as it is seen without the programs that read them (those are
// asked in tests/integration/export_test.py).
#include "experiments/formats/exported_vector.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <span>

#include "collectives/foundation/errors.hpp"
#include "experiments/formats/torch_file_reader.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

using testing::error_of;
using testing::expect_parts;

StoredVector sample() {
  return {{0.5F, -0.0F, 3e38F}, /*layer=*/3, /*step=*/8, /*epoch=*/1, "models/tiny", "{}"};
}

TEST(ExportedVector, EqualVectorsAreEqualFiles) {
  for (const char* format : {"pt", "safetensors", "gguf", "npy", "lm-eval"}) {
    EXPECT_EQ(exported_vector(sample(), 1, format), exported_vector(sample(), 1, format)) << format;
  }
}

// Other programs map the file into memory, so its numbers must be aligned.
TEST(ExportedVector, NumbersStandWhereTheyAreAligned) {
  const StoredVector vector = sample();
  const auto place = [&](const std::string& format) {
    const auto bytes = exported_vector(vector, 1, format);
    const std::size_t size = vector.value.size() * sizeof(float);
    for (std::size_t at = 0; at + size <= bytes.size(); ++at) {
      if (std::memcmp(bytes.data() + at, vector.value.data(), size) == 0) {
        return at;
      }
    }
    ADD_FAILURE() << format << " does not hold the numbers";
    return std::size_t{1};
  };
  EXPECT_EQ(place("pt") % 64, 0U);
  EXPECT_EQ(place("lm-eval") % 64, 0U);
  EXPECT_EQ(place("safetensors") % 8, 0U);
  EXPECT_EQ(place("gguf") % 32, 0U);
  EXPECT_EQ(place("npy") % 64, 0U);
}

TEST(ExportedVector, OnlyTheLmEvalFileKeepsTheMultiplierApart) {
  StoredVector vector = sample();
  vector.value = {0.5F, 0.1F};
  const std::vector<float> thrice = {1.5F, static_cast<float>(3.0 * static_cast<double>(0.1F))};
  EXPECT_EQ(read_torch_vector(exported_vector(vector, 3, "pt"), "made.pt"), thrice);
  EXPECT_NE(exported_vector(vector, 3, "lm-eval"), exported_vector(vector, 1, "lm-eval"));
}

TEST(ExportedVector, WhatAFormatCannotHold) {
  StoredVector vector = sample();
  expect_parts(error_of<UserError>([&] { exported_vector(vector, -2, "npy"); }),
               {"float32", "--multiplier"});
  vector.layer = 0;
  expect_parts(error_of<UserError>([&] { exported_vector(vector, 1, "gguf"); }),
               {"layer 0", "llama.cpp", "direction.0"});
  EXPECT_NO_THROW(exported_vector(vector, 1, "lm-eval"));
  EXPECT_THROW(exported_vector(vector, 1, "onnx"), BugError);
}

}  // namespace
}  // namespace bipo
