// Formats amounts of memory.
#pragma once

#include <fmt/format.h>

#include <string>

namespace bipo {

inline constexpr double kGiB = 1 << 30;

// Returns for instance "1.25 GiB".
inline std::string gib_text(double bytes, int decimals = 2) {
  return fmt::format("{:.{}f} GiB", bytes / kGiB, decimals);
}

}  // namespace bipo
