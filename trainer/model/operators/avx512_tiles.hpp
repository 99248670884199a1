// AVX-512 loops for products on a CPU: operands brought into the order that tiles need, and small
// products of float32 matrices.
#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

namespace bipo::tiles {

// Tiles of results have kTile rows and columns; rows are packed in strips of kStrip.
inline constexpr std::int64_t kTile = 64;
inline constexpr std::int64_t kStrip = 16;

// Whether this processor has the instructions that the functions for float32 need, and those for
// bfloat16.
bool runs_here();
bool rounds_here();

// Returns `rows` rounded up to whole strips.
constexpr std::int64_t whole_strips(std::int64_t rows) {
  return (rows + kStrip - 1) / kStrip * kStrip;
}

// Writes up to kStrip rows of `columns` numbers to strip `strip` of `panel`: element by element of
// all kTile rows of the panel, in bfloat16 pair by pair (`columns` is even).  Rows that are not
// there become 0.
void pack_strip(const float* rows, std::int64_t stride, std::int64_t count, std::int64_t columns,
                float* panel, std::int64_t strip);
void pack_strip(const float* rows, std::int64_t stride, std::int64_t count, std::int64_t columns,
                c10::BFloat16* panel, std::int64_t strip);

// Copies up to kTile columns of `rows` rows, with kTile numbers to a row; in bfloat16 rows go in
// pairs, whose numbers alternate, and an odd last row is followed by zeros.  Columns that are not
// there keep what `to` had.
void pack_columns(const float* from, std::int64_t stride, std::int64_t rows, std::int64_t columns,
                  float* to);
void pack_columns(const c10::BFloat16* from, std::int64_t stride, std::int64_t rows,
                  std::int64_t columns, c10::BFloat16* to);

// out [rows, columns] = residual + tile^T, for a tile of `columns` rows of kTile numbers; out and
// residual (null: zero) have rows of `stride` numbers.
void store_transposed(const float* tile, std::int64_t rows, std::int64_t columns,
                      const float* residual, float* out, std::int64_t stride);

// An element of a matrix is at first + row * row_stride + column * column_stride.
struct Strided {
  const float* first = nullptr;
  std::int64_t row_stride = 0;
  std::int64_t column_stride = 1;
};

// c [m, n] = a [m, k] b [k, n] + (adds ? c : 0); rows of b and c have ldb and ldc numbers.  For
// products too small for a BLAS call to be worth it.  For one thread.
void multiply(std::int64_t m, std::int64_t n, std::int64_t k, Strided a, const float* b,
              std::int64_t ldb, bool adds, float* c, std::int64_t ldc);

// The same for b = y^T, y [n, k].
void multiply_by_transpose(std::int64_t m, std::int64_t n, std::int64_t k, Strided a,
                           const float* y, std::int64_t ldy, bool adds, float* c, std::int64_t ldc);

// c [m, n] = a [m, k] b [k, n] for columns `first` ... first + n of a matrix in strips of kStrip
// columns, one after the other: [k, kStrip] each.  For one thread.  The bits are those of
// multiply().
void multiply_by_strips(std::int64_t m, std::int64_t n, std::int64_t k, Strided a,
                        const float* strips, std::int64_t first, float* c, std::int64_t ldc);

}  // namespace bipo::tiles
