// The interpreter of pickles: what it takes, and that everything else is refused.
#include "experiments/formats/pickle_values.hpp"

#include <gtest/gtest.h>

#include <set>

#include "collectives/foundation/errors.hpp"
#include "tests/support/errors.hpp"
#include "tests/support/torch_bytes.hpp"

namespace bipo {
namespace {

using testing::as_bytes;
using testing::error_of;
using testing::expect_parts;
using testing::global;
using testing::pickled;
using testing::TensorBytes;
using testing::tuple;
using testing::whole;

Pickle parse(const std::string& bytes) {
  return read_pickle(as_bytes(bytes), "made.pt");
}

std::string refusal(const std::string& value) {
  return error_of<UserError>([&] { parse(whole(value)); });
}

TEST(PickleValues, NumbersAndTexts) {
  const auto integer = [](const std::string& value) {
    const Pickle pickle = parse(whole(value));
    EXPECT_EQ(pickle[pickle.root].kind, PickleKind::kInteger);
    return pickle[pickle.root].integer;
  };
  EXPECT_EQ(integer("K\xff"), 255);
  EXPECT_EQ(integer("M\xe9\x03"), 1001);
  EXPECT_EQ(integer("J\xfe\xff\xff\xff"), -2);
  EXPECT_EQ(integer(std::string("\x8a\x00", 2)), 0);
  EXPECT_EQ(integer("\x8a\x01\xff"), -1);
  EXPECT_EQ(integer(std::string("\x8a\x02\xff\x00", 4)), 255);
  EXPECT_EQ(integer(pickled(-(std::int64_t{1} << 62))), -(std::int64_t{1} << 62));
  const Pickle text =
      parse(whole(pickled("gr\xc3\xb6\xc3\x9f"
                          "e")));
  EXPECT_EQ(text[text.root].text,
            "gr\xc3\xb6\xc3\x9f"
            "e");
}

TEST(PickleValues, TheEndOfOnePickleIsTold) {
  const std::string bytes = whole(")") + "rest";
  EXPECT_EQ(parse(bytes).bytes, bytes.size() - 4);
}

TEST(PickleValues, AParameterIsItsTensor) {
  const std::string parameter = global("torch._utils", "_rebuild_parameter") +
                                tuple({TensorBytes().value(), "\x88", TensorBytes().hooks}) + "R";
  const Pickle pickle = parse(whole(parameter));
  EXPECT_EQ(pickle[pickle.root].kind, PickleKind::kTensor);
  expect_parts(refusal(global("torch._utils", "_rebuild_parameter") + ")R"), {"wrong kind"});
}

// Every opcode of Python's pickletools that torch.save does not need, and every byte that is none.
TEST(PickleValues, OtherOpcodesAreRefused) {
  const std::string needed = "(.GJKMNQRXacehjqrstu)]}\x80\x85\x86\x87\x88\x89\x8a\x8c\x93\x94\x95";
  for (int code = 0; code < 256; ++code) {
    const auto opcode = static_cast<char>(code);
    if (opcode == '\x80' || needed.find(opcode) == std::string::npos) {
      const std::string message = refusal(")))" + std::string(1, opcode) + std::string(300, '\0'));
      expect_parts(message, {"made.pt", "opcode"});
    }
  }
}

TEST(PickleValues, OpcodesThatBuildObjectsAreCode) {
  for (const std::string opcode : {"b", "iposix\nsystem\n", "o", "\x81", "\x82\x01", "\x92"}) {
    expect_parts(refusal("))" + opcode), {"a pickle with code in it", "opcode", "no code was run"});
  }
}

TEST(PickleValues, OtherGlobalsAreCode) {
  const std::vector<std::pair<std::string, std::string>> names = {
      {"posix", "system"},
      {"os", "system"},
      {"builtins", "eval"},
      {"__builtin__", "eval"},
      {"torch", "load"},
      {"torch._utils", "_rebuild_tensor"},
      {"torch._utils", ""},
      {"", ""},
      {"collections", "OrderedDict.__init__"},
      {"torch._utils._rebuild_tensor_v2", ""},
      {"numpy", "ndarray"},
      {"torch", "FloatStorage "}};
  for (const auto& [module, name] : names) {
    const std::string full = module + "." + name;
    expect_parts(refusal(global(module, name)), {"a pickle with code in it", "asks for " + full});
    const std::string from_stack =
        std::string("\x80\x04") + pickled(module) + pickled(name) + "\x93.";
    expect_parts(error_of<UserError>([&] { parse(from_stack); }),
                 {"a pickle with code in it", full});
  }
  expect_parts(refusal(global("torch", "LongStorage")), {"torch.LongStorage", "float32"});
  expect_parts(refusal(global("a\x1b[2J", "b")), {"asks for a?[2J.b"});
}

TEST(PickleValues, OtherTensorsAreNamed) {
  for (const char* type : {"float8_e4m3fnuz", "uint16", "complex64", "int8"}) {
    expect_parts(refusal(global("torch", type)), {std::string("torch.") + type, "float8_e4m3fn"});
  }
  expect_parts(refusal(global("torch._utils", "_rebuild_sparse_tensor")),
               {"made.pt", "a sparse tensor", "to_dense()"});
  expect_parts(refusal(global("torch._tensor", "_rebuild_from_type_v2")),
               {"attributes of its own", "clone()"});
  expect_parts(refusal(global("numpy._core.multiarray", "_reconstruct")),
               {"NumPy array", "torch.from_numpy"});
}

TEST(PickleValues, RealNumbers) {
  const Pickle pickle = parse(whole(std::string("G\xbf\xf8\0\0\0\0\0\0", 9)));
  EXPECT_EQ(pickle[pickle.root].kind, PickleKind::kReal);
  EXPECT_EQ(pickle[pickle.root].real, -1.5);
}

TEST(PickleValues, OnlyTheFunctionsAreCalled) {
  expect_parts(refusal(global("torch", "FloatStorage") + ")R"), {"calls torch.FloatStorage"});
  expect_parts(refusal(global("collections", "OrderedDict") + tuple({"]"}) + "R"), {"wrong kind"});
  expect_parts(refusal(pickled("posix.system") + ")R"), {"not a function"});
  expect_parts(refusal(global("torch._utils", "_rebuild_tensor_v2") + "]R"), {"not a tuple"});
}

TEST(PickleValues, OperandsThatAreNotThere) {
  for (const std::string value : {"",
                                  "R",
                                  ")R",
                                  "\x85",
                                  "\x87",
                                  "t",
                                  "e",
                                  "u",
                                  "a",
                                  "s",
                                  "]s",
                                  "Q",
                                  "q\x01",
                                  "(q\x01",
                                  "\x93",
                                  "h\x07",
                                  "j\x01\x02\x03\x04",
                                  "N(R",
                                  ")(\x85",
                                  "](",
                                  ")a"}) {
    expect_parts(refusal(value), {"made.pt"});
  }
  expect_parts(refusal("}(Nu"), {"not a list or dictionary"});
  expect_parts(refusal(")Na"), {"not a list or dictionary"});
  expect_parts(refusal("]Q"), {"not a tuple"});
}

TEST(PickleValues, OtherBeginnings) {
  expect_parts(error_of<UserError>([] { parse(""); }), {"cut short"});
  expect_parts(error_of<UserError>([] { parse("N."); }), {"PROTO"});
  expect_parts(error_of<UserError>([] { parse("\x80\x01N."); }), {"protocol 1"});
  expect_parts(error_of<UserError>([] { parse("\x80\x06N."); }), {"protocol 6"});
}

TEST(PickleValues, LengthsBeyondTheFile) {
  for (const std::string value : {"X\xff\xff\xff\xff"
                                  "abc",
                                  "X\xff\xff\xff\x7f", "\x8c\xff", "\x8a\xff\x01"}) {
    expect_parts(refusal(value), {"cut short"});
  }
}

// Values lie side by side, so that neither building nor dropping them recurses.
// MARK, then the memo's first value `count` times.
std::string repeated(std::size_t count) {
  std::string bytes = "(";
  for (std::size_t i = 0; i < count; ++i) {
    bytes += std::string("h\0", 2);
  }
  return bytes;
}

TEST(PickleValues, ListsCannotBeCopiedWithoutEnd) {
  const std::string first("Nq\0", 3);
  EXPECT_EQ(parse(whole(first + repeated(kMostPickleItems) + "t")).values.size(), 2U);
  EXPECT_NE(refusal(first + repeated(kMostPickleItems + 1) + "t").find("items"), std::string::npos);
  EXPECT_NE(refusal(first + "]" + repeated(kMostPickleItems + 1) + "e").find("items"),
            std::string::npos);
  // A tuple of 1000 items, and copies of it as arguments and as a storage.
  const std::string thousand = first + repeated(1000) + "tq\1";
  std::string storages;
  std::string tensors;
  for (int i = 0; i < 100; ++i) {
    storages += "h\1Q";
    tensors += global("torch._utils", "_rebuild_tensor_v2") + "h\1R";
  }
  expect_parts(refusal(thousand + storages), {"made.pt", "more than 65536 items"});
  expect_parts(refusal(thousand + tensors), {"made.pt", "more than 65536 items"});
}

TEST(PickleValues, DeepNestingAndCyclesAreHarmless) {
  EXPECT_EQ(parse(whole(")" + std::string(60000, '\x85'))).values.size(), 60001U);
  expect_parts(refusal(")" + std::string(70000, '\x85')), {"more than 65536 values"});
  expect_parts(refusal(std::string(std::size_t{1} << 20, '(') + "N"), {"longer than 1048576"});
  const Pickle cycle =
      parse(whole("]q\x01h\x01"
                  "a"));
  EXPECT_EQ(cycle[cycle.root].items, std::vector<PickleIndex>{cycle.root});
}

}  // namespace
}  // namespace bipo
