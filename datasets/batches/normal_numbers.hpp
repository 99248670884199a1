// Normal numbers from counter-based random bits.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <utility>

#include "datasets/batches/philox.hpp"

namespace bipo {

// Returns two independent normal numbers, a pure function of its arguments (Box and Muller, 1958).
inline std::pair<double, double> normal_pair(const std::array<std::uint32_t, 4>& counter,
                                             std::uint64_t seed) {
  const auto bits = philox4x32(
      counter, {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  const auto uniform = [](std::uint32_t number) { return (number + 0.5) * 0x1p-32; };
  const double radius = std::sqrt(-2 * std::log(uniform(bits[0])));
  const double angle = 2 * std::numbers::pi * uniform(bits[1]);
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

}  // namespace bipo
