#include "trainer/model/operators/small_products.hpp"

#include "trainer/model/operators/avx512_tiles.hpp"

// libtorch exports the BLAS that it brings but does not declare it; tensor operations cost more per
// call than products of this size.
extern "C" void sgemm_(const char* transpose_a, const char* transpose_b, const int* m, const int* n,
                       const int* k, const float* alpha, const float* a, const int* lda,
                       const float* b, const int* ldb, const float* beta, float* c, const int* ldc);

namespace bipo::small {

// BLAS is column-major, so it computes c^T = b^T a^T.
void multiply(std::int64_t m, std::int64_t n, std::int64_t k, Operand a, Operand b, float beta,
              kernels::Columns c) {
  if (tiles::runs_here()) {
    const tiles::Strided left{a.matrix.first, a.is_transposed ? 1 : a.matrix.stride,
                              a.is_transposed ? a.matrix.stride : 1};
    auto* const product = b.is_transposed ? tiles::multiply_by_transpose : tiles::multiply;
    product(m, n, k, left, b.matrix.first, b.matrix.stride, beta != 0, c.first, c.stride);
    return;
  }
  const auto narrow = [](std::int64_t value) { return static_cast<int>(value); };
  const int rows = narrow(n);
  const int columns = narrow(m);
  const int inner = narrow(k);
  const int lda = narrow(a.matrix.stride);
  const int ldb = narrow(b.matrix.stride);
  const int ldc = narrow(c.stride);
  const float one = 1;
  sgemm_(b.is_transposed ? "T" : "N", a.is_transposed ? "T" : "N", &rows, &columns, &inner, &one,
         b.matrix.first, &ldb, a.matrix.first, &lda, &beta, c.first, &ldc);
}

}  // namespace bipo::small
