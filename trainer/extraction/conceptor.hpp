// Conceptors: soft projections onto where activations lie, and their algebra (Jaeger 2014,
// Controlling Recurrent Neural Networks by Conceptors, arXiv 1403.3369; for language models Postmus
// and Abreu 2024, arXiv 2410.16314).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace bipo {

// D hidden.  Matrices are [D, D], symmetric, float64 on the CPU; a conceptor's eigenvalues lie
// between 0 and 1.  What one function returns is symmetric to the bit, and the same for any number
// of threads: decompositions run on one, in the order of 10 D^3 operations.  Local.

// Returns the matrix whose upper triangle this is (see triangle_row()).
at::Tensor symmetric_matrix(const at::Tensor& triangle, std::int64_t hidden);

// Returns the upper triangle of a symmetric matrix, [D (D + 1) / 2].
at::Tensor upper_triangle(const at::Tensor& matrix);

// C = R (R + aperture^-2 I)^-1 for second moments R and aperture > 0, section 3.2 of Jaeger.
// Eigenvalues of R that are rounding (up to D 2^-52 of the largest) count as 0, so that C's range
// is R's.
at::Tensor conceptor_of(const at::Tensor& moments, double aperture);

// The logic of section 3.9 of Jaeger:
//
//   NOT C   = I - C
//   C AND B = (C^-1 + B^-1 - I)^-1
//   C OR B  = NOT (NOT C AND NOT B)
//
// AND is computed as B (C + B - C B)^-1 C on the sum of the ranges, which is the same and needs no
// inverse of C and B.  Where these have none, it is Jaeger's definition 4, the limit of the above:
// its range is the intersection of the ranges.  Eigenvalues of C + B up to 1e-12 count as 0.
// AND and OR are commutative and associative.
at::Tensor conceptor_not(const at::Tensor& c);
at::Tensor conceptor_and(const at::Tensor& c, const at::Tensor& b);
at::Tensor conceptor_or(const at::Tensor& c, const at::Tensor& b);

// Returns the mean of the eigenvalues, the share of the dimensions that the conceptor lets pass:
// Jaeger's quota.
double conceptor_quota(const at::Tensor& c);

}  // namespace bipo
