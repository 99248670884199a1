// Reads the pickles that torch.save writes, from untrusted files, and runs no code: a fixed set of
// opcodes builds plain values, and everything else is refused.
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

// An index in Pickle::values.
using PickleIndex = std::uint32_t;

// Limits the sum of all PickleValue::items: a few bytes of a file can copy one list many times.
inline constexpr std::size_t kMostPickleItems = 65536;

struct PickleValue {
  PickleKind kind = PickleKind::kNone;
  // Also 0 or 1 of a truth value, and 1 for a tensor of _rebuild_tensor_v3.
  std::int64_t integer = 0;
  // kText; "module.name" of a kGlobal; the bytes of a kLargeInteger, little-endian two's
  // complement.
  std::string text;
  // The elements of a tuple or list; the key and value of each entry of a dictionary; of a kStorage
  // its tuple ("storage", class, key, device, elements, ...), of a kTensor the arguments of
  // torch._utils._rebuild_tensor_v2: storage, offset, size, stride, requires_grad, hooks, or of
  // _rebuild_tensor_v3, which has the type of the numbers as a kGlobal behind them.
  std::vector<PickleIndex> items;
  double real = 0;
};

struct Pickle {
  std::vector<PickleValue> values;
  PickleIndex root = 0;
  std::size_t bytes = 0;  // its length in the file

  const PickleValue& operator[](PickleIndex index) const { return values[index]; }
};

// Reads the pickle at the beginning of `bytes`, which may continue after it; `name` names the file
// in messages.  An nn.Parameter becomes its tensor.  A list may contain itself: callers that walk
// through values must limit the depth.  Throws UserError, naming the position, for an end before
// STOP, for opcodes and globals that torch.save does not need for tensors of floating-point
// numbers (in other words where they are those of other tensors and no code), for operands of a
// wrong kind, and for more than 1 MiB, 65536 values, or kMostPickleItems items.
Pickle read_pickle(std::span<const std::byte> bytes, const std::string& name);

}  // namespace bipo
