// Reads the pickles that torch.save writes, from files that are not trusted, and runs nothing: a
// fixed set of opcodes builds plain values, everything else is refused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace bipo {

enum class PickleKind {
  kNone,
  kBoolean,
  kInteger,
  kLargeInteger,  // beyond 64 bits
  kReal,
  kText,
  kTuple,
  kList,
  kDictionary,
  kGlobal,   // a function or class by name
  kStorage,  // the numbers of a tensor, which lie elsewhere in the file
  kTensor,
};

// Of Pickle::values.
using PickleIndex = std::uint32_t;

// The lengths of all PickleValue::items: a file's few bytes can have one list copied many times.
inline constexpr std::size_t kMostPickleItems = 65536;

struct PickleValue {
  PickleKind kind = PickleKind::kNone;
  std::int64_t integer = 0;  // also 0 or 1 of a truth value
  // kText; "module.name" of a kGlobal; the bytes of a kLargeInteger, little-endian two's
  // complement.
  std::string text;
  // The elements of a tuple or list; the key and value of each entry of a dictionary; of a kStorage
  // its tuple ("storage", class, key, device, elements, ...), of a kTensor the arguments of
  // torch._utils._rebuild_tensor_v2: storage, offset, size, stride, ...
  std::vector<PickleIndex> items;
};

struct Pickle {
  std::vector<PickleValue> values;
  PickleIndex root = 0;
  std::size_t bytes = 0;  // of the file that it takes

  const PickleValue& operator[](PickleIndex index) const { return values[index]; }
};

// The pickle that begins with `bytes`, which may go on after it; `name` stands for the file in
// messages.  An nn.Parameter is its tensor.  A list that holds itself is possible: whoever walks
// through values must bound the depth.  Throws UserError, naming the place, for an end before STOP,
// for other opcodes and globals than torch.save needs for tensors of floating-point numbers, for
// operands of a wrong kind, and for more than 1 MiB, 65536 values, or kMostPickleItems items in all
// values together.
Pickle read_pickle(std::span<const std::byte> bytes, const std::string& name);

}  // namespace bipo
