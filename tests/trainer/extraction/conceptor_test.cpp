// Conceptors and their logic against Jaeger's definitions, written down a second time with
// inverses.
#include "trainer/extraction/conceptor.hpp"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/support/training_world.hpp"
#include "trainer/extraction/methods.hpp"
#include "trainer/extraction/principal_component.hpp"

namespace bipo {
namespace {

using testing::lone_ranks;

constexpr std::int64_t kSize = 12;

at::Tensor some_rows(std::int64_t count, std::uint64_t seed) {
  return at::randn({count, kSize}, at::detail::createCPUGenerator(seed),
                   at::TensorOptions().dtype(at::kDouble));
}

at::Tensor moments_of(const at::Tensor& rows) {
  return rows.t().matmul(rows) / static_cast<double>(rows.size(0));
}

at::Tensor identity() {
  return at::eye(kSize, at::TensorOptions().dtype(at::kDouble));
}

at::Tensor inverse_of(const at::Tensor& matrix) {
  return std::get<0>(at::linalg_inv_ex(matrix));
}

void expect_equal(const at::Tensor& found, const at::Tensor& expected, double tolerance) {
  ASSERT_EQ(found.sizes(), expected.sizes());
  EXPECT_LE((found - expected).abs().max().item<double>(), tolerance);
  EXPECT_TRUE(found.equal(found.t()));
}

// R (R + a^-2 I)^-1 by the inverse.
at::Tensor by_inverse(const at::Tensor& moments, double aperture) {
  return moments.matmul(inverse_of(moments + identity() / (aperture * aperture)));
}

// Jaeger's definition 4, by pseudo-inverses and a basis of the intersection of the ranges.
at::Tensor jaegers_and(const at::Tensor& c, const at::Tensor& b) {
  constexpr double kNothing = 1e-9;
  const auto parts = [](const at::Tensor& matrix) {
    const auto [values, vectors] = at::linalg_eigh(matrix);
    const at::Tensor zero = values.lt(kNothing);
    const auto compose = [&, vectors = vectors](const at::Tensor& diagonal) {
      return (vectors * diagonal).matmul(vectors.t());
    };
    return std::vector<at::Tensor>{compose(at::where(zero, 0.0, values.reciprocal())),
                                   compose(zero.to(at::kDouble))};
  };
  const auto of_c = parts(c);
  const auto of_b = parts(b);
  const auto [values, vectors] = at::linalg_eigh(of_c[1] + of_b[1]);
  const auto shared = values.lt(kNothing).sum().item<std::int64_t>();
  const at::Tensor basis = vectors.narrow(1, 0, shared);
  const at::Tensor inner = basis.t().matmul(of_c[0] + of_b[0] - identity()).matmul(basis);
  return basis.matmul(inverse_of(inner)).matmul(basis.t());
}

TEST(Conceptor, LetsPassWhatItsMomentsHave) {
  for (const std::int64_t count : {5, 40}) {
    const at::Tensor moments = moments_of(some_rows(count, 1));
    for (const double aperture : {0.1, 1.0, 30.0}) {
      // Inverses of matrices with a condition of some 4000 at most.
      expect_equal(conceptor_of(moments, aperture), by_inverse(moments, aperture), 1e-11);
    }
  }
  EXPECT_LT(conceptor_quota(conceptor_of(moments_of(some_rows(40, 1)), 1e-6)), 1e-10);
  // Five rows span five dimensions of twelve.
  EXPECT_NEAR(conceptor_quota(conceptor_of(moments_of(some_rows(5, 1)), 1e6)), 5.0 / 12, 1e-9);
}

// s / (s + 1 / a^2) in each dimension.
TEST(Conceptor, OfDiagonalMomentsIsDiagonal) {
  const std::vector<double> squares = {4, 1, 0.25, 0};
  const at::Tensor moments = at::diag(at::tensor(squares, at::kDouble));
  const auto passes = [&](double aperture) { return conceptor_of(moments, aperture).diagonal(); };
  const auto expect_passes = [&](double aperture, std::vector<double> expected, double tolerance) {
    const at::Tensor conceptor = conceptor_of(moments, aperture);
    EXPECT_LE((conceptor - at::diag(at::tensor(expected, at::kDouble))).abs().max().item<double>(),
              tolerance)
        << aperture;
  };
  expect_passes(1, {0.8, 0.5, 0.2, 0}, 1e-15);
  expect_passes(2, {16.0 / 17, 0.8, 0.5, 0}, 1e-15);
  // Nothing passes with the aperture 0, and the whole range with an infinite one.
  expect_passes(1e-9, {0, 0, 0, 0}, 1e-17);
  expect_passes(1e9, {1, 1, 1, 0}, 1e-17);
  EXPECT_EQ(passes(1e200)[3].item<double>(), 0);
}

TEST(Conceptor, ASymmetricMatrixIsItsUpperTriangle) {
  const at::Tensor c = conceptor_of(moments_of(some_rows(8, 1)), 3);
  const at::Tensor triangle = upper_triangle(c);
  EXPECT_EQ(triangle.numel(), kSize * (kSize + 1) / 2);
  EXPECT_TRUE(triangle[kSize].equal(c[1][1]));  // behind the first row
  EXPECT_TRUE(symmetric_matrix(triangle, kSize).equal(c));
}

TEST(Conceptor, DeMorgan) {
  for (const std::int64_t count : {5, 8, 40}) {
    const at::Tensor c = conceptor_of(moments_of(some_rows(count, 1)), 2);
    const at::Tensor b = conceptor_of(moments_of(some_rows(count + 1, 2)), 2);
    expect_equal(conceptor_not(conceptor_and(c, b)),
                 conceptor_or(conceptor_not(c), conceptor_not(b)), 1e-11);
    expect_equal(conceptor_not(conceptor_or(c, b)),
                 conceptor_and(conceptor_not(c), conceptor_not(b)), 1e-11);
  }
}

TEST(Conceptor, BitsDoNotDependOnTheNumberOfThreads) {
  const int before = at::get_num_threads();
  const at::Tensor moments = moments_of(some_rows(40, 1));
  const at::Tensor other = conceptor_of(moments_of(some_rows(8, 2)), 3);
  at::set_num_threads(1);
  const at::Tensor alone = conceptor_and(conceptor_of(moments, 3), other);
  at::set_num_threads(2);
  EXPECT_TRUE(conceptor_and(conceptor_of(moments, 3), other).equal(alone));
  EXPECT_EQ(at::get_num_threads(), 2);
  at::set_num_threads(before);
}

TEST(Conceptor, OrOfTwoIsThatOfTheSumOfTheirMoments) {
  for (const std::int64_t count : {5, 8, 40}) {
    const at::Tensor one = moments_of(some_rows(count, 1));
    const at::Tensor other = moments_of(some_rows(count + 1, 2));
    for (const double aperture : {0.1, 1.0, 10.0}) {
      expect_equal(conceptor_or(conceptor_of(one, aperture), conceptor_of(other, aperture)),
                   conceptor_of(one + other, aperture), 1e-11);
    }
  }
}

TEST(Conceptor, AndIsJaegersWithAndWithoutInverses) {
  for (const std::int64_t count : {5, 8, 40}) {  // ranges that meet at 0, in 5 dimensions, in all
    for (const double aperture : {0.1, 1.0, 10.0}) {
      const at::Tensor c = conceptor_of(moments_of(some_rows(count, 1)), aperture);
      const at::Tensor b = conceptor_of(moments_of(some_rows(count + 1, 2)), aperture);
      expect_equal(conceptor_and(c, b), jaegers_and(c, b), 1e-11);
      expect_equal(conceptor_and(b, c), conceptor_and(c, b), 1e-11);
    }
  }
}

TEST(Conceptor, LogicOfSimpleOnes) {
  const at::Tensor c = conceptor_of(moments_of(some_rows(8, 1)), 3);
  const at::Tensor nothing = at::zeros_like(c);
  expect_equal(conceptor_and(c, identity()), c, 1e-13);
  expect_equal(conceptor_and(c, nothing), nothing, 0);
  expect_equal(conceptor_and(nothing, nothing), nothing, 0);
  expect_equal(conceptor_or(c, nothing), c, 1e-13);
  expect_equal(conceptor_or(c, identity()), identity(), 1e-13);
  expect_equal(conceptor_not(conceptor_not(c)), c, 1e-15);
  // Projections onto lines: the lines meet at 0, and span a plane.
  const at::Tensor x = at::zeros_like(c);
  x[0][0] = 1.0;
  const at::Tensor y = at::zeros_like(c);
  y[1][1] = 1.0;
  expect_equal(conceptor_and(x, y), nothing, 1e-15);
  expect_equal(conceptor_or(x, y), x + y, 1e-15);
}

TEST(Conceptor, MomentsAreThoseOfTheChosenAnswersInUnitsOfTheResidualStream) {
  constexpr double kUnit = 2.5;
  const at::Tensor rows = some_rows(300, 3);
  const Ranks ranks = lone_ranks();
  const auto statistics = moment_statistics()({0, kSize, 300, 3, at::kCPU, &ranks});
  for (std::int64_t pair = 0; pair < 300; ++pair) {
    statistics->add(pair, pair / 100, rows[pair], at::zeros({kSize}, at::kDouble));
  }
  const at::Tensor triangle = statistics->direction(kUnit);
  ASSERT_EQ(triangle.numel(), triangle_size(kSize));
  expect_equal(symmetric_matrix(triangle, kSize), moments_of(rows) / (kUnit * kUnit), 1e-13);
}

}  // namespace
}  // namespace bipo
