#include "trainer/extraction/conceptor.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <limits>
#include <tuple>

#include "trainer/extraction/principal_component.hpp"

namespace bipo {
namespace {

constexpr double kNoRange = 1e-12;  // of eigenvalues between 0 and 2

// LAPACK shares its sums out among its threads, so that their number would show in the last bits.
class OneThread {
 public:
  OneThread() { at::set_num_threads(1); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;
  ~OneThread() { at::set_num_threads(before_); }

 private:
  int before_ = at::get_num_threads();
};

struct Eigen {
  at::Tensor values;   // [D], ascending
  at::Tensor vectors;  // [D, D], in the columns
};

Eigen eigen_of(const at::Tensor& symmetric) {
  const auto [values, vectors] = at::linalg_eigh(symmetric);
  return {values, vectors};
}

// V diag(values) V^T; the lower triangle is a copy of the upper one, because the rounding of a
// product need not be symmetric.
at::Tensor recomposed(const at::Tensor& vectors, const at::Tensor& values) {
  at::Tensor product = (vectors * values).matmul(vectors.t());
  product.triu_();
  product.add_(product.triu(1).t());
  return product;
}

at::Tensor identity_like(const at::Tensor& matrix) {
  return at::eye(matrix.size(0), matrix.options());
}

}  // namespace

at::Tensor symmetric_matrix(const at::Tensor& triangle, std::int64_t hidden) {
  const at::Tensor matrix = at::zeros({hidden, hidden}, at::kDouble);
  for (std::int64_t i = 0; i < hidden; ++i) {
    const at::Tensor row = triangle.narrow(0, triangle_row(i, hidden), hidden - i);
    matrix[i].narrow(0, i, hidden - i).copy_(row);
    matrix.select(1, i).narrow(0, i, hidden - i).copy_(row);
  }
  return matrix;
}

at::Tensor upper_triangle(const at::Tensor& matrix) {
  const std::int64_t hidden = matrix.size(0);
  const at::Tensor triangle = at::empty({triangle_size(hidden)}, matrix.options());
  for (std::int64_t i = 0; i < hidden; ++i) {
    triangle.narrow(0, triangle_row(i, hidden), hidden - i)
        .copy_(matrix[i].narrow(0, i, hidden - i));
  }
  return triangle;
}

at::Tensor conceptor_of(const at::Tensor& moments, double aperture) {
  const OneThread alone;
  const Eigen eigen = eigen_of(moments);
  const double largest = eigen.values[-1].item<double>();
  const double rounding =
      largest * static_cast<double>(moments.size(0)) * std::numeric_limits<double>::epsilon();
  const at::Tensor values = at::where(eigen.values.le(rounding), 0.0, eigen.values);
  const double weight = 1 / (aperture * aperture);
  // 0 / 0 where the aperture is so large that its weight is 0, too.
  const at::Tensor passes = at::where(values.gt(0), values / (values + weight), 0.0);
  return recomposed(eigen.vectors, passes);
}

at::Tensor conceptor_not(const at::Tensor& c) {
  return identity_like(c) - c;
}

at::Tensor conceptor_and(const at::Tensor& c, const at::Tensor& b) {
  const OneThread alone;
  const Eigen sum = eigen_of(c + b);
  const std::int64_t rank = sum.values.gt(kNoRange).sum().item<std::int64_t>();
  if (rank == 0) {
    return at::zeros_like(c);
  }
  const at::Tensor basis = sum.vectors.narrow(1, sum.values.size(0) - rank, rank);
  const at::Tensor c_inside = basis.t().matmul(c).matmul(basis);
  const at::Tensor b_inside = basis.t().matmul(b).matmul(basis);
  const at::Tensor either = c_inside + b_inside - c_inside.matmul(b_inside);
  const at::Tensor both = b_inside.matmul(std::get<0>(at::linalg_solve_ex(either, c_inside)));
  const at::Tensor found = basis.matmul(both).matmul(basis.t());
  return (found + found.t()) / 2;
}

at::Tensor conceptor_or(const at::Tensor& c, const at::Tensor& b) {
  return conceptor_not(conceptor_and(conceptor_not(c), conceptor_not(b)));
}

double conceptor_quota(const at::Tensor& c) {
  return c.trace().item<double>() / static_cast<double>(c.size(0));
}

}  // namespace bipo
