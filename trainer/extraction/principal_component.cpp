#include "trainer/extraction/principal_component.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "trainer/extraction/ordered_sums.hpp"

namespace bipo {
namespace {

constexpr std::int64_t kBasis = 32;  // vectors of a round
constexpr int kMostRounds = 300;
constexpr double kResidualLeft = 1e-12;  // of the eigenvalue

using Vectors = std::vector<std::vector<double>>;

double length_of(const std::vector<double>& x) {
  return std::sqrt(ordered_dot(x, x));
}

void scale(std::vector<double>& x, double factor) {
  for (double& value : x) {
    value *= factor;
  }
}

// A x
std::vector<double> product(const double* triangle, const std::vector<double>& x) {
  const auto n = static_cast<std::int64_t>(x.size());
  std::vector<double> y(x.size(), 0);
  for (std::int64_t i = 0; i < n; ++i) {
    const double* const row = triangle + triangle_row(i, n);  // columns i..n-1
    const double* const from_diagonal = x.data() + i;
    y[static_cast<std::size_t>(i)] += ordered_dot(row, from_diagonal, n - i);
    for (std::int64_t j = 1; j < n - i; ++j) {
      y[static_cast<std::size_t>(i + j)] += row[j] * *from_diagonal;
    }
  }
  return y;
}

// Turns rows and columns p and q of the symmetric `a`, and the columns of `vectors`, so that
// a[p][q] becomes 0.
void turn(Vectors& a, Vectors& vectors, std::size_t p, std::size_t q) {
  const double half = (a[q][q] - a[p][p]) / (2 * a[p][q]);
  const double tangent = (half >= 0 ? 1.0 : -1.0) / (std::abs(half) + std::sqrt(half * half + 1));
  const double cosine = 1 / std::sqrt(tangent * tangent + 1);
  const double sine = tangent * cosine;
  const std::size_t size = a.size();
  for (std::size_t k = 0; k < size; ++k) {
    const double at_p = a[k][p];
    const double at_q = a[k][q];
    a[k][p] = cosine * at_p - sine * at_q;
    a[k][q] = sine * at_p + cosine * at_q;
  }
  for (std::size_t k = 0; k < size; ++k) {
    const double at_p = a[p][k];
    const double at_q = a[q][k];
    a[p][k] = cosine * at_p - sine * at_q;
    a[q][k] = sine * at_p + cosine * at_q;
  }
  a[p][q] = 0;  // but for rounding
  a[q][p] = 0;
  for (std::size_t k = 0; k < size; ++k) {
    const double at_p = vectors[k][p];
    const double at_q = vectors[k][q];
    vectors[k][p] = cosine * at_p - sine * at_q;
    vectors[k][q] = sine * at_p + cosine * at_q;
  }
}

// Returns the largest eigenvalue of a small symmetric matrix and its vector, by Jacobi's rotations.
std::pair<double, std::vector<double>> largest_of_small(Vectors a) {
  constexpr int kMostSweeps = 60;
  constexpr double kNothing = 1e-17;  // of the largest element
  const std::size_t size = a.size();
  Vectors vectors(size, std::vector<double>(size, 0));
  double largest = 0;
  for (std::size_t i = 0; i < size; ++i) {
    vectors[i][i] = 1;
    for (const double value : a[i]) {
      largest = std::max(largest, std::abs(value));
    }
  }
  bool is_diagonal = false;
  for (int sweep = 0; sweep < kMostSweeps && !is_diagonal; ++sweep) {
    is_diagonal = true;
    for (std::size_t p = 0; p < size; ++p) {
      for (std::size_t q = p + 1; q < size; ++q) {
        if (std::abs(a[p][q]) > kNothing * largest) {
          turn(a, vectors, p, q);
          is_diagonal = false;
        }
      }
    }
  }
  std::size_t best = 0;
  for (std::size_t i = 1; i < size; ++i) {
    best = a[i][i] > a[best][best] ? i : best;
  }
  std::vector<double> found;
  for (const std::vector<double>& row : vectors) {
    found.push_back(row[best]);
  }
  return {a[best][best], std::move(found)};
}

// Takes from x what lies along the orthonormal `basis`.
void remove_from(std::vector<double>& x, const Vectors& basis) {
  for (int twice = 0; twice < 2; ++twice) {  // once leaves what rounding leaves
    for (const std::vector<double>& direction : basis) {
      add_scaled(x, -ordered_dot(direction, x), direction);
    }
  }
}

// Returns the sum of weights[i] * vectors[i].
std::vector<double> combination(const Vectors& vectors, const std::vector<double>& weights) {
  std::vector<double> sum(vectors.front().size(), 0);
  for (std::size_t i = 0; i < vectors.size(); ++i) {
    add_scaled(sum, weights[i], vectors[i]);
  }
  return sum;
}

// No component of a matrix that anybody meets is orthogonal to it.
std::vector<double> starting_vector(std::int64_t n) {
  constexpr double kGoldenSection = 0.6180339887498949;
  std::vector<double> start;
  for (std::int64_t i = 1; i <= n; ++i) {
    const double turns = static_cast<double>(i) * kGoldenSection;
    start.push_back(turns - std::floor(turns) - 0.5);
  }
  scale(start, 1 / length_of(start));
  return start;
}

}  // namespace

std::optional<std::vector<double>> principal_component(const double* triangle, std::int64_t n) {
  if (std::all_of(triangle, triangle + triangle_size(n), [](double x) { return x == 0; })) {
    return std::vector<double>(static_cast<std::size_t>(n), 0);
  }
  std::vector<double> best = starting_vector(n);
  for (int round = 0; round < kMostRounds; ++round) {
    Vectors basis = {best};
    Vectors images;  // A times each of the basis
    for (;;) {
      images.push_back(product(triangle, basis.back()));
      if (static_cast<std::int64_t>(basis.size()) == std::min(n, kBasis)) {
        break;
      }
      std::vector<double> next = images.back();
      const double before = length_of(next);
      remove_from(next, basis);
      const double left = length_of(next);
      if (left <= 1e-13 * before) {
        break;  // the basis spans all that A makes of it
      }
      scale(next, 1 / left);
      basis.push_back(std::move(next));
    }
    Vectors projected(basis.size(), std::vector<double>(basis.size()));
    for (std::size_t i = 0; i < basis.size(); ++i) {
      for (std::size_t j = 0; j <= i; ++j) {
        projected[i][j] = ordered_dot(basis[j], images[i]);
        projected[j][i] = projected[i][j];
      }
    }
    const auto [value, weights] = largest_of_small(std::move(projected));
    best = combination(basis, weights);
    std::vector<double> residual = combination(images, weights);
    add_scaled(residual, -value, best);
    scale(best, 1 / length_of(best));
    if (length_of(residual) <= kResidualLeft * value) {
      return best;
    }
  }
  return std::nullopt;
}

}  // namespace bipo
