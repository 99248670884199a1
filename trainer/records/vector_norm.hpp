// Euclidean norms of steering vectors, gradients and what else comes as plain numbers.
#pragma once

#include <cmath>
#include <vector>

namespace bipo {

// Accumulated in double precision.
template <typename Number>
double vector_norm(const std::vector<Number>& values) {
  double squares = 0;
  for (const Number value : values) {
    squares += static_cast<double>(value) * static_cast<double>(value);
  }
  return std::sqrt(squares);
}

}  // namespace bipo
