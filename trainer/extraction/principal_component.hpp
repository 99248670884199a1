// The largest eigenvector of a symmetric matrix, with bits that do not depend on the number of
// threads.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace bipo {

// Returns where row i of the upper triangle of an n x n matrix begins, with its diagonal element,
// when the rows lie one after the other.
constexpr std::int64_t triangle_row(std::int64_t i, std::int64_t n) {
  return i * n - i * (i - 1) / 2;
}

constexpr std::int64_t triangle_size(std::int64_t n) {
  return triangle_row(n, n);
}

// Returns the eigenvector [n], of length 1 and either sign, of the largest eigenvalue of a positive
// semidefinite matrix, given as the n (n + 1) / 2 numbers of its upper triangle; zeros for a matrix
// of zeros.  Lanczos with full orthogonalisation, begun anew from the best vector (Saad, Numerical
// Methods for Large Eigenvalue Problems, sections 6.6 and 7.3), until |A v - l v| is 1e-12 of l;
// none where this does not come about because other eigenvalues lie too close.
std::optional<std::vector<double>> principal_component(const double* triangle, std::int64_t n);

}  // namespace bipo
