#include "trainer/model/gguf/gguf_metadata.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>

namespace bipo {
namespace {

template <typename T>
T load(std::span<const std::byte> encoded, std::uint64_t index = 0) {
  T value;
  std::memcpy(&value, encoded.data() + index * sizeof(T), sizeof(T));
  return value;
}

double through_shortest_decimal(float value) {
  if (!std::isfinite(value)) {
    return value;
  }
  std::array<char, 32> text{};
  const auto written = std::to_chars(text.data(), text.data() + text.size(), value);
  double result = value;
  std::from_chars(text.data(), written.ptr, result);
  return result;
}

std::string_view string_at_front(std::span<const std::byte> encoded) {
  const auto length = load<std::uint64_t>(encoded);
  return {reinterpret_cast<const char*>(encoded.data()) + sizeof(length), length};
}

}  // namespace

std::uint64_t scalar_bytes(GgufType type) {
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kBool:
      return 1;
    case GgufType::kUint16:
    case GgufType::kInt16:
      return 2;
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kFloat32:
      return 4;
    case GgufType::kUint64:
    case GgufType::kInt64:
    case GgufType::kFloat64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      break;
  }
  return 0;
}

bool GgufValue::equals(const GgufValue& other) const {
  return type_ == other.type_ && is_array_ == other.is_array_ && count_ == other.count_ &&
         std::ranges::equal(encoded_, other.encoded_);
}

std::optional<std::int64_t> GgufValue::integer_at(std::uint64_t index) const {
  switch (type_) {
    case GgufType::kUint8:
      return load<std::uint8_t>(encoded_, index);
    case GgufType::kInt8:
      return load<std::int8_t>(encoded_, index);
    case GgufType::kUint16:
      return load<std::uint16_t>(encoded_, index);
    case GgufType::kInt16:
      return load<std::int16_t>(encoded_, index);
    case GgufType::kUint32:
      return load<std::uint32_t>(encoded_, index);
    case GgufType::kInt32:
      return load<std::int32_t>(encoded_, index);
    case GgufType::kInt64:
      return load<std::int64_t>(encoded_, index);
    case GgufType::kUint64: {
      const auto value = load<std::uint64_t>(encoded_, index);
      constexpr std::uint64_t kLargest = std::numeric_limits<std::int64_t>::max();
      return value > kLargest ? std::nullopt : std::optional(static_cast<std::int64_t>(value));
    }
    default:
      return std::nullopt;
  }
}

std::optional<std::int64_t> GgufValue::integer() const {
  return is_array_ ? std::nullopt : integer_at(0);
}

std::optional<double> GgufValue::number() const {
  if (is_array_) {
    return std::nullopt;
  }
  if (type_ == GgufType::kFloat32) {
    return through_shortest_decimal(load<float>(encoded_));
  }
  if (type_ == GgufType::kFloat64) {
    return load<double>(encoded_);
  }
  const std::optional<std::int64_t> value = integer_at(0);
  return value ? std::optional(static_cast<double>(*value)) : std::nullopt;
}

std::optional<bool> GgufValue::boolean() const {
  if (is_array_ || type_ != GgufType::kBool) {
    return std::nullopt;
  }
  return load<std::uint8_t>(encoded_) != 0;
}

std::optional<std::string_view> GgufValue::text() const {
  if (is_array_ || type_ != GgufType::kString) {
    return std::nullopt;
  }
  return string_at_front(encoded_);
}

std::optional<std::vector<std::int64_t>> GgufValue::integers() const {
  if (!is_array_) {
    return std::nullopt;
  }
  std::vector<std::int64_t> values;
  for (std::uint64_t i = 0; i < count_; ++i) {
    const std::optional<std::int64_t> value = integer_at(i);
    if (!value) {
      return std::nullopt;
    }
    values.push_back(*value);
  }
  return values;
}

std::optional<std::vector<float>> GgufValue::floats() const {
  if (!is_array_ || type_ != GgufType::kFloat32) {
    return std::nullopt;
  }
  std::vector<float> values;
  for (std::uint64_t i = 0; i < count_; ++i) {
    values.push_back(load<float>(encoded_, i));
  }
  return values;
}

std::optional<std::vector<bool>> GgufValue::booleans() const {
  if (!is_array_ || type_ != GgufType::kBool) {
    return std::nullopt;
  }
  std::vector<bool> values;
  for (const std::byte value : encoded_) {
    values.push_back(value != std::byte{0});
  }
  return values;
}

std::optional<std::vector<std::string_view>> GgufValue::texts() const {
  if (!is_array_ || type_ != GgufType::kString) {
    return std::nullopt;
  }
  std::vector<std::string_view> values;
  values.reserve(count_);
  std::span<const std::byte> rest = encoded_;
  for (std::uint64_t i = 0; i < count_; ++i) {
    values.push_back(string_at_front(rest));
    rest = rest.subspan(sizeof(std::uint64_t) + values.back().size());
  }
  return values;
}

}  // namespace bipo
