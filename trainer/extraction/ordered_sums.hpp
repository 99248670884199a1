// Sums of products in an order of their own, so that their bits do not depend on the number of
// threads, as those of a library's products may.
#pragma once

#include <cstdint>
#include <vector>

namespace bipo {

// Returns the sum of a[i] * b[i].
inline double ordered_dot(const double* a, const double* b, std::int64_t n) {
  constexpr std::int64_t kLanes = 8;  // that the compiler may put into vector registers
  double lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += a[i + lane] * b[i + lane];
    }
  }
  double sum = 0;
  for (; i < n; ++i) {
    sum += a[i] * b[i];
  }
  for (const double lane : lanes) {
    sum += lane;
  }
  return sum;
}

inline double ordered_dot(const std::vector<double>& a, const std::vector<double>& b) {
  return ordered_dot(a.data(), b.data(), static_cast<std::int64_t>(a.size()));
}

// Adds factor * x to y.
inline void add_scaled(std::vector<double>& y, double factor, const std::vector<double>& x) {
  for (std::size_t i = 0; i < y.size(); ++i) {
    y[i] += factor * x[i];
  }
}

}  // namespace bipo
