// Reads the numbers within the blocks of quantised tensors, at any address.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace bipo {

inline std::uint32_t byte_at(const std::byte* data, std::int64_t index) {
  return std::to_integer<std::uint32_t>(data[index]);
}

template <typename T>
T load_at(const std::byte* data) {
  T value;
  std::memcpy(&value, data, sizeof(T));
  return value;
}

// Converts IEEE 754 binary16 to binary32, exactly.
inline float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000U) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1FU;
  const std::uint32_t mantissa = half & 0x3FFU;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
  }
  constexpr std::uint32_t kRebias = 127 - 15;
  const std::uint32_t wide = exponent == 0x1F ? 0xFF : exponent + kRebias;
  return std::bit_cast<float>(sign | (wide << 23) | (mantissa << 13));
}

inline float half_at(const std::byte* data) {
  return half_to_float(load_at<std::uint16_t>(data));
}

}  // namespace bipo
