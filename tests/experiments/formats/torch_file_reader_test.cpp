// Vectors of torch.save: those that torch wrote, and files that lie about theirs.
#include "experiments/formats/torch_file_reader.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "collectives/foundation/errors.hpp"
#include "tests/support/errors.hpp"
#include "tests/support/torch_bytes.hpp"

namespace bipo {
namespace {

using testing::as_bytes;
using testing::error_of;
using testing::expect_parts;
using testing::global;
using testing::LegacyFile;
using testing::pickled;
using testing::TensorBytes;
using testing::torch_seed;
using testing::tuple;

const std::vector<std::string> kSeedsWithVector = {"zip_vector",
                                                   "zip_parameter",
                                                   "zip_row_of_half",
                                                   "zip_protocol_4",
                                                   "legacy_vector",
                                                   "legacy_bfloat16",
                                                   "legacy_parameter_of_double",
                                                   "legacy_every_second",
                                                   "zip_dictionary",
                                                   "zip_float8_e4m3fn",
                                                   "zip_float8_e5m2"};
const std::vector<std::string> kSeedsWithMore = {"zip_layers", "zip_lm_eval", "zip_table",
                                                 "legacy_layers"};

std::vector<NamedTensor> read_all(const std::string& bytes) {
  return read_torch_tensors(as_bytes(bytes), "made.pt");
}

std::vector<float> read(const std::string& bytes) {
  const std::vector<NamedTensor> tensors = read_all(bytes);
  return tensors.size() == 1 ? tensors[0].values : std::vector<float>();
}

std::string refusal(const std::string& bytes) {
  return error_of<UserError>([&] { read(bytes); });
}

std::string tensor_refusal(const std::function<void(TensorBytes&)>& change) {
  TensorBytes tensor;
  change(tensor);
  LegacyFile file;
  file.object = tensor.value();
  return refusal(file.build());
}

std::string file_refusal(const std::function<void(LegacyFile&)>& change) {
  LegacyFile file;
  change(file);
  return refusal(file.build());
}

TEST(TorchFileReader, EveryFormAndType) {
  const std::vector<float> expected = {0.5F, -1.25F, 3.0F};  // float16 and bfloat16 hold them, too
  for (const std::string& seed : kSeedsWithVector) {
    const std::string bytes = torch_seed(seed);
    EXPECT_TRUE(is_torch_file(as_bytes(bytes))) << seed;
    const bool is_strided = seed == "legacy_every_second";
    EXPECT_EQ(read(bytes), is_strided ? (std::vector<float>{1, 3, 5}) : expected) << seed;
  }
  EXPECT_EQ(read(LegacyFile().build()), (std::vector<float>{0, 1, 2, 3}));
}

std::vector<std::string> all_seeds() {
  std::vector<std::string> seeds = kSeedsWithVector;
  seeds.insert(seeds.end(), kSeedsWithMore.begin(), kSeedsWithMore.end());
  return seeds;
}

TEST(TorchFileReader, FilesCutOffAnywhere) {
  for (const std::string& seed : all_seeds()) {
    const std::string bytes = torch_seed(seed);
    for (std::size_t size = 0; size < bytes.size(); ++size) {
      // A copy of its own, so that sanitizers see a read beyond the end.
      const std::vector<char> part(bytes.begin(),
                                   bytes.begin() + static_cast<std::ptrdiff_t>(size));
      EXPECT_THROW(read_torch_tensors(std::as_bytes(std::span(part)), "made.pt"), UserError)
          << seed << " of " << size << " bytes";
    }
  }
}

TEST(TorchFileReader, AnyChangedByteIsReadOrRefused) {
  for (const std::string& seed : all_seeds()) {
    std::string bytes = torch_seed(seed);
    for (char& byte : bytes) {
      for (const int flipped : {0x01, 0x80, 0xff}) {
        byte = static_cast<char>(byte ^ flipped);
        try {
          EXPECT_LE(read(bytes).size(), 6U);
        } catch (const UserError&) {
          // The other right answer.
        }
        byte = static_cast<char>(byte ^ flipped);
      }
    }
  }
}

TEST(TorchFileReader, VectorsThatAreNotWithinTheirStorage) {
  const std::int64_t most = std::numeric_limits<std::int64_t>::max();
  const auto expect_outside = [](const std::string& size, const std::string& stride,
                                 const std::string& offset) {
    expect_parts(tensor_refusal([&](TensorBytes& t) {
                   t.size = tuple({size});
                   t.stride = tuple({stride});
                   t.offset = offset;
                 }),
                 {"not within its storage of 4"});
  };
  expect_outside(pickled(5), pickled(1), pickled(0));
  expect_outside(pickled(4), pickled(1), pickled(1));
  expect_outside(pickled(2), pickled(4), pickled(0));
  expect_outside(pickled(1), pickled(1), pickled(4));
  expect_outside(pickled(most), pickled(0), pickled(0));
  expect_outside(pickled(most), pickled(most), pickled(most));
  expect_outside(pickled(2), pickled(most), pickled(most));
  for (const auto member : {&TensorBytes::offset, &TensorBytes::elements}) {
    expect_parts(tensor_refusal([&](TensorBytes& t) { t.*member = pickled(-1); }),
                 {"not a number from 0"});
    expect_parts(tensor_refusal([&](TensorBytes& t) { t.*member = "N"; }), {"not a number from 0"});
    expect_parts(tensor_refusal([&](TensorBytes& t) {
                   t.*member = "\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x7f";
                 }),
                 {"not a number from 0"});
  }
}

TEST(TorchFileReader, OtherShapes) {
  const auto shape = [](const std::vector<std::string>& size,
                        const std::vector<std::string>& stride) {
    return tensor_refusal([&](TensorBytes& t) {
      t.size = tuple(size);
      t.stride = tuple(stride);
    });
  };
  expect_parts(shape({}, {}), {"shape []"});
  expect_parts(shape({pickled(0)}, {pickled(1)}), {"shape [0]"});
  expect_parts(shape({pickled(0), pickled(2)}, {pickled(2), pickled(1)}), {"shape [0, 2]"});
  expect_parts(shape({pickled(3), pickled(2)}, {pickled(2), pickled(1)}), {"within its storage"});
  expect_parts(shape({pickled(3), pickled(2)}, {pickled(1), pickled(1)}), {"within its storage"});
  expect_parts(shape({pickled(2), pickled(2)}, {pickled(0), pickled(1)}), {"within its storage"});
  expect_parts(shape({pickled(1), pickled(1), pickled(4)}, {pickled(4), pickled(4), pickled(1)}),
               {"[1, 1, 4]"});
  expect_parts(shape({pickled(4)}, {}), {"0 strides"});
  expect_parts(shape(std::vector<std::string>(9, pickled(1)), {}), {"at most 8"});
  expect_parts(tensor_refusal([](TensorBytes& t) { t.size = "N"; }), {"not a tuple"});
}

TEST(TorchFileReader, StoragesOfAnotherSize) {
  expect_parts(file_refusal([](LegacyFile& f) { f.count = 5; }), {"of 4 numbers that says 5"});
  expect_parts(file_refusal([](LegacyFile& f) { f.data += 'x'; }),
               {"1 bytes behind its last storage"});
  expect_parts(file_refusal([](LegacyFile& f) { f.data.pop_back(); }), {"with 15 bytes"});
  const std::int64_t huge = std::int64_t{1} << 62;  // times 4 bytes is 2^64
  expect_parts(file_refusal([&](LegacyFile& f) {
                 TensorBytes tensor;
                 tensor.elements = pickled(huge);
                 f.object = tensor.value();
                 f.count = huge;
               }),
               {"storage"});
  std::string zip = torch_seed("zip_vector");
  const std::string elements = "K\x03t";  // BININT1 3, the end of the storage's tuple
  zip.replace(zip.find(elements), elements.size(), "K\x04t");
  expect_parts(refusal(zip), {"storage of 4 numbers with 12 bytes"});
}

TEST(TorchFileReader, OtherObjects) {
  for (const std::string& object :
       std::vector<std::string>{"N", "]", pickled("text"), global("torch", "FloatStorage")}) {
    expect_parts(file_refusal([&](LegacyFile& f) { f.object = object; }), {"other than a tensor"});
  }
  const auto arguments = [](const std::string& value) {
    return file_refusal([&](LegacyFile& f) { f.object = TensorBytes().function + value + "R"; });
  };
  expect_parts(arguments(")"), {"0 arguments"});
  expect_parts(arguments(tuple({"N", "N", "N", "N", "N", "N"})), {"without a storage"});
  expect_parts(arguments(tuple({tuple({}) + "Q", "N", "N", "N", "N", "N"})), {"without a storage"});
  expect_parts(tensor_refusal([](TensorBytes& t) { t.key = "N"; }), {"not a text"});
  expect_parts(tensor_refusal([](TensorBytes& t) { t.view = tuple({pickled("0")}); }),
               {"view of another"});
  expect_parts(tensor_refusal([](TensorBytes& t) { t.hooks = "}(NNu"; }), {"hooks"});
  expect_parts(tensor_refusal([](TensorBytes& t) { t.storage_class = t.function; }),
               {"a storage of class"});
}

std::string object_file(const std::string& object) {
  LegacyFile file;
  file.object = object;
  return file.build();
}

std::string dictionary(const std::vector<std::pair<std::string, std::string>>& entries) {
  std::string bytes = "}(";
  for (const auto& [key, value] : entries) {
    bytes += key + value;
  }
  return bytes + "u";
}

std::string half_of_the_numbers(std::int64_t offset) {
  TensorBytes tensor;
  tensor.offset = pickled(offset);
  tensor.size = tuple({pickled(2)});
  return tensor.value();
}

TEST(TorchFileReader, ATable) {
  TensorBytes tensor;
  tensor.size = tuple({pickled(2), pickled(2)});
  tensor.stride = tuple({pickled(1), pickled(2)});  // transposed
  const std::vector<NamedTensor> tensors = read_all(object_file(tensor.value()));
  ASSERT_EQ(tensors.size(), 1U);
  EXPECT_EQ(tensors[0].rows, 2);
  EXPECT_EQ(tensors[0].values, (std::vector<float>{0, 2, 1, 3}));
}

TEST(TorchFileReader, DictionariesOfLayers) {
  for (const auto& [first, second] : {std::pair{pickled(3), pickled(12)},
                                      {pickled("3"), pickled("12")},
                                      {pickled("layer_3"), pickled("model.layers.12")}}) {
    const std::string inner =
        dictionary({{first, half_of_the_numbers(0)}, {second, half_of_the_numbers(2)}});
    for (const std::string& object :
         {inner, dictionary({{pickled("layer_activations"), inner}, {pickled("type"), "N"}})}) {
      const std::vector<NamedTensor> tensors = read_all(object_file(object));
      ASSERT_EQ(tensors.size(), 2U);
      EXPECT_EQ(tensors[0].layer, 3);
      EXPECT_EQ(tensors[0].values, (std::vector<float>{0, 1}));
      EXPECT_EQ(tensors[1].layer, 12);
      EXPECT_EQ(tensors[1].values, (std::vector<float>{2, 3}));
    }
  }
}

TEST(TorchFileReader, DictionariesOfOneTensor) {
  const auto one = [](const std::string& object) { return read_all(object_file(object)).at(0); };
  EXPECT_EQ(one(dictionary({{pickled("v"), TensorBytes().value()}})).name, "v");
  EXPECT_EQ(one(dictionary({{pickled("v"), TensorBytes().value()}})).layer, std::nullopt);
  EXPECT_EQ(one(dictionary({{pickled("v"), TensorBytes().value()}, {pickled("layer"), pickled(5)}}))
                .layer,
            5);
  expect_parts(refusal(object_file(
                   dictionary({{pickled("v"), TensorBytes().value()}, {pickled("layer"), "N"}}))),
               {"\"layer\""});
}

TEST(TorchFileReader, DictionariesOfLmEval) {
  const auto entry = [](const std::string& action, const std::string& coefficient,
                        const std::string& bias) {
    return dictionary({{pickled("steering_vector"), TensorBytes().value()},
                       {pickled("steering_coefficient"), coefficient},
                       {pickled("action"), action},
                       {pickled("bias"), bias},
                       {pickled("head_index"), "N"}});
  };
  const std::string minus_half("G\xbf\xe0\0\0\0\0\0\0", 9);
  const auto of = [&](const std::string& module, const std::string& value) {
    return object_file(dictionary({{pickled(module), value}}));
  };
  const NamedTensor tensor = read_all(of("layers.7", entry(pickled("add"), minus_half, "N"))).at(0);
  EXPECT_EQ(tensor.layer, 7);
  EXPECT_EQ(tensor.name, "layers.7");
  EXPECT_EQ(tensor.coefficient, -0.5);
  EXPECT_EQ(tensor.values, (std::vector<float>{-0.0F, -0.5F, -1, -1.5F}));
  EXPECT_EQ(read_all(of("layers.7", entry(pickled("add"), pickled(2), "N"))).at(0).values,
            (std::vector<float>{0, 2, 4, 6}));
  expect_parts(refusal(of("layers.7", entry(pickled("clamp"), minus_half, "N"))),
               {"layers.7", "\"add\""});
  expect_parts(refusal(of("layers.7", entry(pickled("add"), "N", "N"))), {"steering_coefficient"});
  expect_parts(refusal(of("layers.7", entry(pickled("add"), minus_half, TensorBytes().value()))),
               {"layers.7", "bias"});
  expect_parts(refusal(of("lm_head", entry(pickled("add"), minus_half, "N"))), {"lm_head"});
}

TEST(TorchFileReader, OtherDictionaries) {
  const std::string tensor = half_of_the_numbers(0);
  const auto message = [](const std::vector<std::pair<std::string, std::string>>& entries) {
    return refusal(object_file(dictionary(entries)));
  };
  expect_parts(message({{pickled("a"), tensor}, {pickled("b"), tensor}}),
               {"(a, b)", "{layer: tensor}"});
  expect_parts(message({{pickled(-1), tensor}, {pickled(2), tensor}}), {"(-1, 2)"});
  expect_parts(message({}), {"dictionary without a tensor"});
  expect_parts(message({{pickled("a"), "}"}, {pickled("b"), "}"}}), {"several dictionaries"});
  // A dictionary in itself.
  expect_parts(refusal(object_file(std::string("}q\1", 3) + pickled("a") + std::string("h\1s", 3))),
               {"dictionary without a tensor"});
}

// A few bytes for each would otherwise become any number of copies.
TEST(TorchFileReader, ManyTensorsOfTheSameNumbers) {
  TensorBytes tensor;
  tensor.elements = pickled(64);
  tensor.size = tuple({pickled(64)});
  std::string bytes = "}(" + std::string("K\0", 2) + tensor.value() + std::string("q\1", 2);
  for (char i = 1; i < 100; ++i) {
    bytes += std::string("K") + i + std::string("h\1", 2);
  }
  LegacyFile file;
  file.object = bytes + "u";
  file.count = 64;
  file.data = std::string(256, '\0');
  expect_parts(refusal(file.build()), {"more numbers than the file has bytes"});
}

TEST(TorchFileReader, SeveralStoragesOfAnOldFile) {
  TensorBytes second;
  second.key = pickled("1");
  LegacyFile file;
  file.object = dictionary({{pickled(0), TensorBytes().value()}, {pickled(1), second.value()}});
  file.keys = "](" + pickled("1") + pickled("0") + "e";
  const float other[] = {5, 6, 7, 8};
  file.data = std::string(reinterpret_cast<const char*>(other), sizeof(other)) +
              std::string(reinterpret_cast<const char*>(&file.count), sizeof(file.count)) +
              file.data;
  const std::vector<NamedTensor> tensors = read_all(file.build());
  ASSERT_EQ(tensors.size(), 2U);
  EXPECT_EQ(tensors[0].values, (std::vector<float>{0, 1, 2, 3}));
  EXPECT_EQ(tensors[1].values, (std::vector<float>{5, 6, 7, 8}));
  file.keys = "](" + pickled("0") + pickled("0") + "e";
  expect_parts(refusal(file.build()), {"names one twice"});
  file.keys = "](" + pickled("0") + "e";
  expect_parts(refusal(file.build()), {"list of storages"});
}

TEST(TorchFileReader, OtherFramesOfOldFiles) {
  expect_parts(file_refusal([](LegacyFile& f) { f.magic = pickled(7); }), {"magic"});
  expect_parts(file_refusal([](LegacyFile& f) { f.protocol = pickled(1000); }), {"protocol"});
  expect_parts(
      file_refusal([](LegacyFile& f) { f.machine = "}(" + pickled("little_endian") + "\x89u"; }),
      {"big-endian"});
  expect_parts(file_refusal([](LegacyFile& f) { f.keys = "]"; }), {"list of storages"});
  expect_parts(file_refusal([](LegacyFile& f) { f.keys = "](" + pickled("1") + "e"; }),
               {"list of storages"});
  expect_parts(file_refusal([](LegacyFile& f) {
                 f.object = global("posix", "system") + tuple({pickled("id")}) + "R";
               }),
               {"a pickle with code in it", "posix.system"});
}

TEST(TorchFileReader, OtherArchives) {
  std::string zip = torch_seed("zip_vector");
  const auto renamed = [&](const std::string& from, const std::string& to) {
    std::string bytes = zip;
    for (auto at = bytes.find(from); at != std::string::npos; at = bytes.find(from, at + 1)) {
      bytes.replace(at, from.size(), to);
    }
    return refusal(bytes);
  };
  expect_parts(renamed("/data.pkl", "/date.pkl"), {"without data.pkl"});
  expect_parts(renamed("/data/0", "/data/1"), {"storage 0 is missing"});
  expect_parts(renamed("little", "bigbig"), {"big-endian"});
}

}  // namespace
}  // namespace bipo
