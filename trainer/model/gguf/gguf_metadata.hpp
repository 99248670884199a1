// One value of a GGUF file's metadata.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace bipo {

// The values are those of the files (enum gguf_type in gguf.h).
enum class GgufType : std::uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// Bytes of a number or truth value; 0 for strings, arrays and unknown types.
std::uint64_t scalar_bytes(GgufType type);

// A view of one checked value; the bytes belong to the file.  An accessor returns nothing when the
// value is of another type, or an array where one element is asked for and the reverse.
class GgufValue {
 public:
  // `encoded` are the elements as they stand in the file: scalars in little-endian, strings each
  // after their length of 8 bytes.  `type` is that of the elements.
  GgufValue(GgufType type, bool is_array, std::uint64_t count, std::span<const std::byte> encoded)
      : type_(type), is_array_(is_array), count_(count), encoded_(encoded) {}

  GgufType type() const { return type_; }
  bool is_array() const { return is_array_; }
  std::uint64_t count() const { return count_; }

  // Of any integer type; nothing above 2^63 - 1.
  std::optional<std::int64_t> integer() const;
  // Of any integer or floating-point type.  A float32 becomes the number whose shortest decimal it
  // has, 1e-05 and not 9.99999974737875e-06: what the model's config.json said.
  std::optional<double> number() const;
  std::optional<bool> boolean() const;
  std::optional<std::string_view> text() const;

  std::optional<std::vector<std::int64_t>> integers() const;
  std::optional<std::vector<float>> floats() const;  // of float32 only
  std::optional<std::vector<std::string_view>> texts() const;

 private:
  std::optional<std::int64_t> integer_at(std::uint64_t index) const;

  GgufType type_;
  bool is_array_;
  std::uint64_t count_;
  std::span<const std::byte> encoded_;
};

}  // namespace bipo
