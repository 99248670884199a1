// Vectors of safetensors files, GGUF control vectors and tables, which of them is meant, and how a
// file's format is seen.
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

  VectorFile read_all(const std::string& bytes, const WantedVectors& choice,
                      const std::string& format = "auto") const {
    std::ofstream(path_, std::ios::binary) << bytes;
    return read_vector_file(path_, format, choice);
  }

  // The one vector, with what is said of the file.
  struct One : LayerVector, VectorFile {};
  One read(const std::string& bytes, std::optional<std::int64_t> layer = std::nullopt,
           const std::string& format = "auto") const {
    const VectorFile file = read_all(bytes, {layer}, format);
    EXPECT_EQ(file.vectors.size(), 1U);
    return {file.vectors.at(0), file};
  }
  std::string refusal(const std::string& bytes, std::optional<std::int64_t> layer = std::nullopt,
                      const std::string& format = "auto") const {
    return error_of<UserError>([&] { read_all(bytes, {layer}, format); });
  }
  std::string refusal_of(const std::string& bytes, const WantedVectors& choice) const {
    return error_of<UserError>([&] { read_all(bytes, choice); });
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
  EXPECT_EQ(read(of("F16", {1, 3}, halves), 0).value, kThree);
  const std::string brain("\x00\x3f\xa0\xbf\x40\x40", 6);
  EXPECT_EQ(read(of("BF16", {3}, brain), 0).value, kThree);
  EXPECT_EQ(read(of("F64", {2}, encoded(0.5) + encoded(0.1)), 0).value,
            (std::vector<float>{0.5F, 0.1F}));
  expect_parts(refusal(of("F32", {3}, kThreeNumbers)), {"which layer", "--layer"});
  expect_parts(refusal(of("F32", {3, 1}, kThreeNumbers)),
               {"table v of 3 rows of 1 numbers", "--layer-of-row"});
  expect_parts(refusal(of("F32", {1, 3, 1}, kThreeNumbers)), {"tensor v", "[1, 3, 1]"});
  expect_parts(refusal(of("F32", {}, encoded(1.0F))), {"shape []"});
  expect_parts(refusal(of("F32", {0}, "")), {"shape [0]"});
  expect_parts(refusal(of("I32", {3}, kThreeNumbers)), {"floating-point"});
  const auto two = [](const char* first, const char* second) {
    nlohmann::json header = {{first, entry("F32", {3}, 12)}, {second, entry("F32", {3}, 12)}};
    header[second]["data_offsets"] = {12, 24};
    return safetensors(header, kThreeNumbers + kThreeNumbers);
  };
  expect_parts(refusal(two("a", "b")), {"2 tensors", "layers.15"});
  expect_parts(refusal(two("layers.1", "model.layers.1")), {"two vectors for layer 1"});
  expect_parts(refusal(two("layers.1.self_attn", "layers.2")), {"2 tensors"});
}

TEST_F(VectorFileTest, NumbersThatAreNotFinite) {
  const auto of = [&](const std::string& type, const std::string& data) {
    return refusal(safetensors({{"v", entry(type, {1}, data.size())}}, data), 3);
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
  expect_parts(refusal(file.build(), 6), {"of layer 5", "--layer 6"});
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
  expect_parts(refusal(file.build(), 6), {"no vector of layer 6", "of 5, 10"});
  const VectorFile all = read_all(file.build(), {});
  ASSERT_EQ(all.vectors.size(), 2U);
  EXPECT_EQ(all.vectors[0].layer, 5);
  EXPECT_EQ(all.vectors[1].layer, 10);
  EXPECT_EQ(all.vectors[1].tensor, "direction.10");
  EXPECT_EQ(all.vectors[1].value, (std::vector<float>{0.5F, -1.25F}));
}

TEST_F(VectorFileTest, ShiftedDirections) {
  GgufBytes file = control_vector();
  file.add_tensor("direction.1", {3}, testing::kTensorF32, kThreeNumbers);
  file.add_tensor("direction.2", {3}, testing::kTensorF32, kThreeNumbers);
  const VectorFile shifted = read_all(file.build(), {.shift = -1});
  ASSERT_EQ(shifted.vectors.size(), 2U);
  EXPECT_EQ(shifted.vectors[0].layer, 0);
  EXPECT_EQ(shifted.vectors[1].layer, 1);
  const VectorFile chosen = read_all(file.build(), {.layer = 1, .shift = -1});
  ASSERT_EQ(chosen.vectors.size(), 1U);
  EXPECT_EQ(chosen.vectors[0].tensor, "direction.2");
  expect_parts(refusal_of(file.build(), {.shift = -2}), {"--shift", "-1", "direction.1"});
  expect_parts(refusal_of(LegacyFile().build(), {.layer = 1, .shift = -1}), {"omit --shift"});
}

// The type is what tells llama-cvector-generator's files, which store an int32, from repeng's.
TEST_F(VectorFileTest, AFileOfTheGeneratorSaysWhereItWasMeasured) {
  constexpr std::uint32_t kMetaInt32 = 5;
  const auto notes = [&](std::uint32_t type, std::int64_t shift) {
    GgufBytes file = control_vector();
    file.add_key("controlvector.layer_count", type, encoded<std::uint32_t>(1));
    file.add_tensor("direction.5", {3}, testing::kTensorF32, kThreeNumbers);
    return read_all(file.build(), {.shift = shift}).notes;
  };
  ASSERT_EQ(notes(kMetaInt32, 0).size(), 1U);
  expect_parts(notes(kMetaInt32, 0)[0], {"llama-cvector-generator", "N - 1", "--shift -1"});
  EXPECT_TRUE(notes(kMetaInt32, -1).empty());
  EXPECT_TRUE(notes(testing::kMetaUint32, 0).empty());
}

TEST_F(VectorFileTest, TheRowsOfATable) {
  const std::string file = safetensors({{"t", entry("F32", {3, 1}, 12)}}, kThreeNumbers);
  const auto layers = [&](RowRule rule) {
    std::map<std::int64_t, float> found;
    for (const LayerVector& vector : read_all(file, {.rows = rule}).vectors) {
      found[vector.layer] = vector.value.at(0);
    }
    return found;
  };
  EXPECT_EQ(layers(RowRule::kSame),
            (std::map<std::int64_t, float>{{0, 0.5F}, {1, -1.25F}, {2, 3.0F}}));
  EXPECT_EQ(layers(RowRule::kPrevious), (std::map<std::int64_t, float>{{0, -1.25F}, {1, 3.0F}}));
  const VectorFile chosen = read_all(file, {.layer = 1, .rows = RowRule::kPrevious});
  ASSERT_EQ(chosen.vectors.size(), 1U);
  EXPECT_EQ(chosen.vectors[0].tensor, "row 2");
  expect_parts(refusal_of(file, {.layer = 3, .rows = RowRule::kSame}), {"no vector of layer 3"});
  expect_parts(refusal_of(file, {.layer = 1}), {"--layer-of-row r", "r-1", "persona_vectors"});
  const std::string single = safetensors({{"t", entry("F32", {1, 3}, 12)}}, kThreeNumbers);
  expect_parts(refusal_of(single, {.layer = 1, .rows = RowRule::kSame}), {"omit --layer-of-row"});
}

// Only the list in the metadata says which blocks psyctl's layer_0, layer_1, ... are.
TEST_F(VectorFileTest, PsyctlsListOfLayers) {
  const auto of = [&](const std::string& names) {
    nlohmann::json header = {{"layer_0", entry("F32", {3}, 12)},
                             {"layer_1", entry("F32", {3}, 12)},
                             {"__metadata__", {{"layer_names", names}}}};
    header["layer_1"]["data_offsets"] = {12, 24};
    return safetensors(header, kThreeNumbers + encoded(1.0F) + encoded(2.0F) + encoded(3.0F));
  };
  const std::string file = of("['model.layers[13].mlp', 'model.layers[7].mlp.down_proj']");
  const VectorFile all = read_all(file, {});
  ASSERT_EQ(all.vectors.size(), 2U);
  EXPECT_EQ(all.vectors[0].layer, 7);
  EXPECT_EQ(all.vectors[0].value, (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(all.vectors[1].layer, 13);
  ASSERT_EQ(all.notes.size(), 2U);
  expect_parts(all.notes[0], {"layer 7", "mlp.down_proj", "--site mlp"});
  EXPECT_EQ(all.vectors[0].site, Site::kMlp);
  EXPECT_EQ(all.vectors[1].site, Site::kMlp);
  const VectorFile of_blocks = read_all(of("['layers.1', 'layers.2']"), {});
  EXPECT_TRUE(of_blocks.notes.empty());
  EXPECT_EQ(of_blocks.vectors[0].site, Site::kBlock);
  const VectorFile mixed = read_all(of("['layers.1', 'layers.2.mlp']"), {});
  EXPECT_EQ(mixed.vectors[0].site, Site::kBlock);
  EXPECT_EQ(mixed.vectors[1].site, Site::kMlp);
  expect_parts(refusal(of("['layers.1']")), {"list 1 layers", "layer_1"});
  expect_parts(refusal(of("['layers.1', 'model.layers[2].self_attn']")),
               {"model.layers[2].self_attn", "layer_1"});
  const std::string single =
      safetensors({{"steering_vector", entry("F32", {3}, 12)},
                   {"__metadata__", {{"layer_names", "['model.layers[13].mlp']"}}}},
                  kThreeNumbers);
  EXPECT_EQ(read(single).LayerVector::layer, 13);
  expect_parts(refusal(single, 1), {"layer 13", "--layer 1"});
}

// A number in it alone may count anything, such as psyctl's places in its list.
TEST_F(VectorFileTest, ALoneTensorsNameMayBeThatOfAnMlp) {
  const auto named = [](const char* name) {
    return safetensors({{name, entry("F32", {3}, 12)}}, kThreeNumbers);
  };
  const VectorFile found = read_all(named("layers.13.mlp"), {});
  EXPECT_EQ(found.vectors[0].layer, 13);
  EXPECT_EQ(found.vectors[0].site, Site::kMlp);
  ASSERT_EQ(found.notes.size(), 1U);
  expect_parts(refusal(named("layers.13.mlp"), 1), {"layer 13", "--layer 1"});
  expect_parts(refusal_of(named("layer_0"), {}), {"--layer"});
  const VectorFile elsewhere = read_all(named("layers.13.self_attn.o_proj"), {.layer = 13});
  EXPECT_EQ(elsewhere.vectors[0].site, Site::kBlock);
  ASSERT_EQ(elsewhere.notes.size(), 1U);
  expect_parts(elsewhere.notes[0], {"layers.13.self_attn.o_proj", "output of block 13"});
  const VectorFile given = read_all(named("layer_0"), {.layer = 5});
  EXPECT_TRUE(given.notes.empty());
  EXPECT_EQ(given.vectors[0].layer, 5);
  EXPECT_EQ(given.vectors[0].site, Site::kBlock);
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
  EXPECT_EQ(read(LegacyFile().build(), 0).format, "pt");
  EXPECT_EQ(read(testing::torch_seed("zip_vector"), 0).format, "pt");
  expect_parts(refusal("\x89HDF\r\n\x1a\n"), {"HDF5", "--vector"});
  expect_parts(refusal(""), {"not a file of torch.save"});
  expect_parts(refusal("\x93NUMPY"), {"not a file of numpy.save"});
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
