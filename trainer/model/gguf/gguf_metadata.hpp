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

// Returns the bytes of a number or truth value; 0 for strings, arrays and unknown types.
std::uint64_t scalar_bytes(GgufType type);

// A view of one checked value; the bytes belong to the file.  An accessor returns nothing if the
// value has another type, or is an array where one element is requested, and the reverse.
class GgufValue {
 public:
  // `encoded` are the elements as in the file: scalars in little-endian, each string after its
  // length of 8 bytes.  `type` is the type of the elements.
  GgufValue(GgufType type, bool is_array, std::uint64_t count, std::span<const std::byte> encoded)
      : type_(type), is_array_(is_array), count_(count), encoded_(encoded) {}

  GgufType type() const { return type_; }
  bool is_array() const { return is_array_; }
  std::uint64_t count() const { return count_; }

  // Whether type and bytes are the same.
  bool equals(const GgufValue& other) const;

  // For every integer type; nothing above 2^63 - 1.
  std::optional<std::int64_t> integer() const;
  // For every integer or floating-point type.  A float32 becomes the double with the same shortest
  // decimal, 1e-05 and not 9.99999974737875e-06, which is the number in the model's config.json.
  std::optional<double> number() const;
  std::optional<bool> boolean() const;
  std::optional<std::string_view> text() const;

  std::optional<std::vector<std::int64_t>> integers() const;
  std::optional<std::vector<float>> floats() const;  // float32 only
  std::optional<std::vector<bool>> booleans() const;
  std::optional<std::vector<std::string_view>> texts() const;

 private:
  std::optional<std::int64_t> integer_at(std::uint64_t index) const;

  GgufType type_;
  bool is_array_;
  std::uint64_t count_;
  std::span<const std::byte> encoded_;
};

}  // namespace bipo
