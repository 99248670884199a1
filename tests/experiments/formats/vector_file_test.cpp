// Vectors of safetensors files and GGUF control vectors, and how a file's format is seen.
#include "experiments/formats/vector_file.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "collectives/foundation/errors.hpp"
#include "tests/support/errors.hpp"
#include "tests/support/gguf_bytes.hpp"
#include "tests/support/torch_bytes.hpp"

namespace bipo {
namespace {

using testing::encoded;
using testing::error_of;
using testing::expect_parts;
using testing::GgufBytes;
using testing::LegacyFile;

const std::string kThreeNumbers = encoded(0.5F) + encoded(-1.25F) + encoded(3.0F);
const std::vector<float> kThree = {0.5F, -1.25F, 3.0F};

std::string safetensors(const nlohmann::json& header, const std::string& data) {
  const std::string text = header.dump();
  return encoded<std::uint64_t>(text.size()) + text + data;
}

nlohmann::json entry(const std::string& type, std::vector<int> shape, std::size_t end) {
  return {{"dtype", type}, {"shape", shape}, {"data_offsets", {0, end}}};
}

GgufBytes control_vector() {
  GgufBytes file;
  file.add_text("general.architecture", "controlvector");
  file.add_text("controlvector.model_hint", "llama");
  return file;
}

class VectorFileTest : public ::testing::Test {
 protected:
  ~VectorFileTest() override { std::filesystem::remove(path_); }

  VectorFile read(const std::string& bytes, std::optional<std::int64_t> layer = std::nullopt,
                  const std::string& format = "auto") const {
    std::ofstream(path_, std::ios::binary) << bytes;
    return read_vector_file(path_, format, layer);
  }
  std::string refusal(const std::string& bytes, std::optional<std::int64_t> layer = std::nullopt,
                      const std::string& format = "auto") const {
    return error_of<UserError>([&] { read(bytes, layer, format); });
  }

  std::filesystem::path path_ = std::filesystem::path(::testing::TempDir()) /
                                ("vector_file_test_" + std::to_string(getpid()));
};

TEST_F(VectorFileTest, ASafetensorsFileSaysWhatItsVectorIs) {
  const auto vector =
      read(safetensors({{"__metadata__", {{"layer", "7"}, {"model", "tiny"}, {"x", "y"}}},
                        {"v", entry("F32", {3}, 12)}},
                       kThreeNumbers));
  EXPECT_EQ(vector.value, kThree);
  EXPECT_EQ(vector.format, "safetensors");
  EXPECT_EQ(vector.layer, 7);
  EXPECT_EQ(vector.model, "tiny");
  EXPECT_EQ(vector.tensor, "v");
  EXPECT_EQ(vector.metadata.at("x"), "y");
}

TEST_F(VectorFileTest, SafetensorsOfOtherTypesAndShapes) {
  const auto of = [&](const std::string& type, std::vector<int> shape, const std::string& data) {
    return safetensors({{"v", entry(type, std::move(shape), data.size())}}, data);
  };
  const std::string halves("\x00\x38\x00\xbd\x00\x42", 6);  // 0.5, -1.25, 3 in float16
  EXPECT_EQ(read(of("F16", {1, 3}, halves)).value, kThree);
  const std::string brain("\x00\x3f\xa0\xbf\x40\x40", 6);
  EXPECT_EQ(read(of("BF16", {3}, brain)).value, kThree);
  EXPECT_EQ(read(of("F64", {2}, encoded(0.5) + encoded(0.1))).value,
            (std::vector<float>{0.5F, 0.1F}));
  EXPECT_EQ(read(of("F32", {3}, kThreeNumbers)).layer, std::nullopt);
  expect_parts(refusal(of("F32", {3, 1}, kThreeNumbers)), {"tensor v", "[3, 1]"});
  expect_parts(refusal(of("F32", {}, encoded(1.0F))), {"shape []"});
  expect_parts(refusal(of("F32", {0}, "")), {"shape [0]"});
  expect_parts(refusal(of("I32", {3}, kThreeNumbers)), {"floating-point"});
  expect_parts(refusal(safetensors({{"a", entry("F32", {0}, 0)}, {"b", entry("F32", {0}, 0)}}, "")),
               {"2 tensors"});
}

TEST_F(VectorFileTest, NumbersThatAreNotFinite) {
  const auto of = [&](const std::string& type, const std::string& data) {
    return refusal(safetensors({{"v", entry(type, {1}, data.size())}}, data));
  };
  expect_parts(of("F32", encoded(std::numeric_limits<float>::quiet_NaN())), {"number 0", "nan"});
  expect_parts(of("F64", encoded(1e300)), {"number 0", "inf", "finite"});
  LegacyFile file;
  file.data.replace(8, 4, encoded(-std::numeric_limits<float>::infinity()));
  expect_parts(refusal(file.build(), 3), {"number 2", "-inf"});
}

TEST_F(VectorFileTest, AControlVectorNamesItsLayer) {
  GgufBytes file = control_vector();
  file.add_tensor("direction.5", {3}, testing::kTensorF32, kThreeNumbers);
  const auto vector = read(file.build());
  EXPECT_EQ(vector.value, kThree);
  EXPECT_EQ(vector.format, "gguf");
  EXPECT_EQ(vector.layer, 5);
  EXPECT_EQ(vector.model, "llama");
  EXPECT_EQ(vector.tensor, "direction.5");
  expect_parts(refusal(file.build(), 6), {"no direction of layer 6", "but of 5"});
}

TEST_F(VectorFileTest, TheModelsNameIsText) {
  const std::string with_nul("a\0b", 3);
  expect_parts(
      refusal(safetensors({{"__metadata__", {{"model", with_nul}}}, {"v", entry("F32", {3}, 12)}},
                          kThreeNumbers)),
      {path_.string(), "the model's name", "NUL"});
  for (const auto& [name, rule] :
       {std::pair{std::string("gr\xf6\xdf"), "UTF-8"}, std::pair{with_nul, "NUL"}}) {
    GgufBytes file;
    file.add_text("general.architecture", "controlvector");
    file.add_text("controlvector.model_hint", name);
    file.add_tensor("direction.5", {3}, testing::kTensorF32, kThreeNumbers);
    expect_parts(refusal(file.build()), {path_.string(), "the model's name", rule});
  }
}

TEST_F(VectorFileTest, AmongDirectionsTheLayerChooses) {
  GgufBytes file = control_vector();
  file.add_tensor("direction.5", {3}, testing::kTensorF32, kThreeNumbers);
  file.add_tensor("direction.10", {2}, testing::kTensorF16, std::string("\x00\x38\x00\xbd", 4));
  EXPECT_EQ(read(file.build(), 10).value, (std::vector<float>{0.5F, -1.25F}));
  EXPECT_EQ(read(file.build(), 5).value, kThree);
  expect_parts(refusal(file.build()), {"layers 5, 10", "--layer"});
}

TEST_F(VectorFileTest, OtherGgufFiles) {
  const auto with = [&](const std::string& name, std::vector<std::uint64_t> extents,
                        std::uint32_t type, const std::string& data) {
    GgufBytes file = control_vector();
    file.add_tensor(name, extents, type, data);
    return refusal(file.build());
  };
  expect_parts(with("direction.x", {3}, testing::kTensorF32, kThreeNumbers), {"direction.x"});
  expect_parts(with("direction.-1", {3}, testing::kTensorF32, kThreeNumbers), {"direction.-1"});
  expect_parts(with("direction.99999999999999999999", {3}, testing::kTensorF32, kThreeNumbers),
               {"direction.999"});
  expect_parts(with("output.weight", {3}, testing::kTensorF32, kThreeNumbers), {"output.weight"});
  expect_parts(with("direction.1", {1, 3}, testing::kTensorF32, kThreeNumbers), {"[3, 1]"});
  expect_parts(with("direction.1", {32}, testing::kTensorQ8_0, std::string(34, '\0')),
               {"quantized", "Q8_0"});
  expect_parts(refusal(control_vector().build()), {"no direction.L"});
  GgufBytes same = control_vector();
  same.add_tensor("direction.1", {3}, testing::kTensorF32, kThreeNumbers);
  same.add_tensor("direction.01", {3}, testing::kTensorF32, kThreeNumbers);
  expect_parts(refusal(same.build()), {"repeats a layer"});
  GgufBytes model;
  model.add_text("general.architecture", "llama");
  expect_parts(refusal(model.build()), {"not a control vector"});
}

TEST_F(VectorFileTest, AContradictedLayer) {
  const std::string file = safetensors(
      {{"__metadata__", {{"layer", "7"}}}, {"v", entry("F32", {3}, 12)}}, kThreeNumbers);
  EXPECT_EQ(read(file, 7).layer, 7);
  expect_parts(refusal(file, 8), {"layer 7", "--layer 8"});
}

TEST_F(VectorFileTest, TheFormatIsSeenFromTheFile) {
  EXPECT_EQ(read(LegacyFile().build()).format, "pt");
  EXPECT_EQ(read(testing::torch_seed("zip_vector")).format, "pt");
  expect_parts(refusal("\x89HDF\r\n\x1a\n"), {"HDF5", "--vector"});
  expect_parts(refusal(""), {"not a file of torch.save"});
  expect_parts(refusal("\x93NUMPY"), {"not a file of torch.save"});
  expect_parts(refusal("GGUF", {}, "pt"), {"PROTO"});
  expect_parts(refusal(LegacyFile().build(), {}, "gguf"), {"GGUF"});
}

TEST_F(VectorFileTest, AHiddenSizeBeyondReason) {
  const int numbers = (1 << 20) + 1;
  const std::string data(numbers * sizeof(float), '\0');
  expect_parts(refusal(safetensors({{"v", entry("F32", {numbers}, data.size())}}, data)),
               {"1048577"});
}

}  // namespace
}  // namespace bipo
