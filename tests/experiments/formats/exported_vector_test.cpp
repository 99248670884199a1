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

std::vector<std::byte> exported_vector(const StoredVector& vector, double multiplier,
                                       const std::string& format) {
  return exported_vectors({{vector, multiplier}}, format, "llama");
}

StoredVector sample() {
  return {{0.5F, -0.0F, 3e38F}, /*layer=*/3, /*step=*/8, /*epoch=*/1, "models/tiny", "{}"};
}

TEST(ExportedVector, EqualVectorsAreEqualFiles) {
  for (const char* format : {"pt", "safetensors", "gguf", "npy", "lm-eval", "vllm-hook"}) {
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
  EXPECT_EQ(read_torch_tensors(exported_vector(vector, 3, "pt"), "made.pt").at(0).values, thrice);
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

// In the order of the layers, whatever order they are given in.
TEST(ExportedVector, SeveralLayers) {
  StoredVector lower = sample();
  StoredVector upper = sample();
  lower.value = {1, 2, 3};
  upper.layer = 7;
  upper.value = {4, 5, 6};
  for (const char* format : {"pt", "safetensors", "gguf", "lm-eval"}) {
    EXPECT_EQ(exported_vectors({{lower, 2}, {upper, -1}}, format, "llama"),
              exported_vectors({{upper, -1}, {lower, 2}}, format, "llama"))
        << format;
  }
  for (const char* format : {"pt", "lm-eval"}) {
    const auto tensors =
        read_torch_tensors(exported_vectors({{upper, -1}, {lower, 2}}, format, ""), "made.pt");
    ASSERT_EQ(tensors.size(), 2U);
    EXPECT_EQ(tensors[0].layer, 3);
    EXPECT_EQ(tensors[0].values, (std::vector<float>{2, 4, 6}));
    EXPECT_EQ(tensors[1].layer, 7);
    EXPECT_EQ(tensors[1].values, (std::vector<float>{-4, -5, -6}));
  }
  const auto refusal = [&](const char* format) {
    return error_of<UserError>([&] {
      exported_vectors({{lower, 1}, {upper, 1}}, format, "llama");
    });
  };
  expect_parts(refusal("npy"), {"npy", "2 layers", "--layer 7", "gguf"});
  expect_parts(refusal("vllm-hook"), {"vllm-hook", "--layer 7"});
  upper.layer = 3;
  expect_parts(refusal("gguf"), {"two vectors are for layer 3"});
  upper.layer = 7;
  upper.value.pop_back();
  expect_parts(refusal("gguf"), {"3 numbers for layer 3", "2 for layer 7"});
  upper = sample();
  upper.layer = 0;
  expect_parts(refusal("gguf"), {"layer 0", "llama.cpp", "--layer 3"});
}

}  // namespace
}  // namespace bipo
