// The largest batch that a budget of memory holds.
#pragma once

#include <cstdint>

namespace bipo {

// Returns the largest size below `too_large` for which `fits(size)` is true; 0: none.  A size that
// does not fit has none above it that does.
template <class Fits>
std::int64_t largest_fitting_size(std::int64_t too_large, const Fits& fits) {
  std::int64_t found = 0;
  while (too_large - found > 1) {
    const std::int64_t middle = found + (too_large - found) / 2;
    (fits(middle) ? found : too_large) = middle;
  }
  return found;
}

}  // namespace bipo
