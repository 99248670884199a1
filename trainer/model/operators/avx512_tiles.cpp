#include "trainer/model/operators/avx512_tiles.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

#include "collectives/foundation/errors.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define BIPO_HAS_AVX512 1
#endif

namespace bipo::tiles {

#ifdef BIPO_HAS_AVX512

#define BIPO_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define BIPO_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))

// Unrolls a loop over an array of registers.  Unrolled late, as the compiler does by itself, such
// an array is written to memory in every round.
#define BIPO_IN_REGISTERS _Pragma("GCC unroll 16")

namespace {

// 16 rows of 16 numbers of 32 bits.
struct Block {
  __m512i rows[kStrip];
};

// Transposes by exchanging ever larger parts: 1 x 1, 2 x 2, 4 x 4 and 8 x 8 numbers.
BIPO_AVX512 inline void transpose(Block& block) {
  __m512i* r = block.rows;
  __m512i t[kStrip];
  BIPO_IN_REGISTERS
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  BIPO_IN_REGISTERS
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  constexpr int kEven = 0x88;  // quarters 0 and 2 of both operands
  constexpr int kOdd = 0xdd;   // quarters 1 and 3
  BIPO_IN_REGISTERS
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], kEven);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], kOdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], kEven);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], kOdd);
  }
  BIPO_IN_REGISTERS
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], kEven);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], kEven);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], kOdd);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], kOdd);
  }
}

// Selects the first `count` of 16 numbers.
inline __mmask16 first_numbers(std::int64_t count) {
  return static_cast<__mmask16>(count >= kStrip ? 0xffffU
                                                : (1U << std::max<std::int64_t>(count, 0)) - 1);
}

BIPO_AVX512 inline void store_units(const Block& block, std::int64_t units, std::int32_t* to) {
  BIPO_IN_REGISTERS
  for (std::int64_t i = 0; i < kStrip; ++i) {
    if (i < units) {
      _mm512_storeu_si512(to + i * kTile, block.rows[i]);
    }
  }
}

}  // namespace

bool runs_here() {
  return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
         __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512dq") != 0;
}

bool rounds_here() {
  return runs_here() && __builtin_cpu_supports("avx512bf16") != 0;
}

BIPO_AVX512 void pack_strip(const float* rows, std::int64_t stride, std::int64_t count,
                            std::int64_t columns, float* panel, std::int64_t strip) {
  for (std::int64_t column = 0; column < columns; column += kStrip) {
    const __mmask16 there = first_numbers(columns - column);
    Block block;
    BIPO_IN_REGISTERS
    for (std::int64_t i = 0; i < kStrip; ++i) {
      block.rows[i] = i < count ? _mm512_maskz_loadu_epi32(there, rows + i * stride + column)
                                : _mm512_setzero_si512();
    }
    transpose(block);
    store_units(block, columns - column,
                reinterpret_cast<std::int32_t*>(panel + column * kTile + strip * kStrip));
  }
}

BIPO_AVX512_BF16 void pack_strip(const float* rows, std::int64_t stride, std::int64_t count,
                                 std::int64_t columns, c10::BFloat16* panel, std::int64_t strip) {
  constexpr std::int64_t kNumbers = 2 * kStrip;  // of a row in a block of pairs
  for (std::int64_t column = 0; column < columns; column += kNumbers) {
    const __mmask16 first = first_numbers(columns - column);
    const __mmask16 second = first_numbers(columns - column - kStrip);
    Block block;
    BIPO_IN_REGISTERS
    for (std::int64_t i = 0; i < kStrip; ++i) {
      const float* from = rows + i * stride + column;
      block.rows[i] = i < count ? reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(
                                      _mm512_maskz_loadu_ps(second, from + kStrip),
                                      _mm512_maskz_loadu_ps(first, from)))
                                : _mm512_setzero_si512();
    }
    transpose(block);
    store_units(block, (columns - column) / 2,
                reinterpret_cast<std::int32_t*>(panel + column * kTile + strip * kNumbers));
  }
}

BIPO_AVX512 void pack_columns(const float* from, std::int64_t stride, std::int64_t rows,
                              std::int64_t columns, float* to) {
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t column = 0; column < columns; column += kStrip) {
      const __mmask16 there = first_numbers(columns - column);
      _mm512_storeu_ps(to + row * kTile + column,
                       _mm512_maskz_loadu_ps(there, from + row * stride + column));
    }
  }
}

BIPO_AVX512 void pack_columns(const c10::BFloat16* from, std::int64_t stride, std::int64_t rows,
                              std::int64_t columns, c10::BFloat16* to) {
  for (std::int64_t row = 0; row < rows; row += 2) {
    for (std::int64_t column = 0; column < columns; column += kStrip) {
      const __mmask16 there = first_numbers(columns - column);
      const c10::BFloat16* at = from + row * stride + column;
      const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, at));
      const __m512i high = row + 1 < rows
                               ? _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, at + stride))
                               : _mm512_setzero_si512();
      _mm512_storeu_si512(to + row * kTile + 2 * column,
                          _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
  }
}

BIPO_AVX512 void store_transposed(const float* tile, std::int64_t rows, std::int64_t columns,
                                  const float* residual, float* out, std::int64_t stride) {
  for (std::int64_t row = 0; row < rows; row += kStrip) {
    for (std::int64_t column = 0; column < columns; column += kStrip) {
      const __mmask16 there = first_numbers(columns - column);
      Block block;
      BIPO_IN_REGISTERS
      for (std::int64_t i = 0; i < kStrip; ++i) {
        block.rows[i] = column + i < columns ? _mm512_loadu_si512(tile + (column + i) * kTile + row)
                                             : _mm512_setzero_si512();
      }
      transpose(block);
      BIPO_IN_REGISTERS
      for (std::int64_t i = 0; i < kStrip; ++i) {
        if (row + i >= rows) {
          break;
        }
        const std::int64_t at = (row + i) * stride + column;
        __m512 values = _mm512_castsi512_ps(block.rows[i]);
        if (residual != nullptr) {
          values = _mm512_add_ps(values, _mm512_maskz_loadu_ps(there, residual + at));
        }
        _mm512_mask_storeu_ps(out + at, there, values);
      }
    }
  }
}

namespace {

constexpr int kMostRows = 6;  // of a product in registers: 6 x 64 sums, a row of b, one of a

// c [ROWS, n] for n <= 16 VECTORS; `last` selects the columns of the last vector.
template <int ROWS, int VECTORS>
BIPO_AVX512 inline void multiply_in_registers(std::int64_t k, Strided a, const float* b,
                                              std::int64_t ldb, bool adds, float* c,
                                              std::int64_t ldc, __mmask16 last) {
  constexpr int kEnd = VECTORS - 1;
  __m512 sums[ROWS][VECTORS];
  BIPO_IN_REGISTERS
  for (int row = 0; row < ROWS; ++row) {
    BIPO_IN_REGISTERS
    for (int v = 0; v < VECTORS; ++v) {
      const float* from = c + row * ldc + v * kStrip;
      sums[row][v] = !adds       ? _mm512_setzero_ps()
                     : v == kEnd ? _mm512_maskz_loadu_ps(last, from)
                                 : _mm512_loadu_ps(from);
    }
  }
  for (std::int64_t i = 0; i < k; ++i) {
    __m512 numbers[VECTORS];
    BIPO_IN_REGISTERS
    for (int v = 0; v < VECTORS; ++v) {
      const float* from = b + i * ldb + v * kStrip;
      numbers[v] = v == kEnd ? _mm512_maskz_loadu_ps(last, from) : _mm512_loadu_ps(from);
    }
    BIPO_IN_REGISTERS
    for (int row = 0; row < ROWS; ++row) {
      const __m512 factor = _mm512_set1_ps(a.first[row * a.row_stride + i * a.column_stride]);
      BIPO_IN_REGISTERS
      for (int v = 0; v < VECTORS; ++v) {
        sums[row][v] = _mm512_fmadd_ps(factor, numbers[v], sums[row][v]);
      }
    }
  }
  BIPO_IN_REGISTERS
  for (int row = 0; row < ROWS; ++row) {
    BIPO_IN_REGISTERS
    for (int v = 0; v < VECTORS; ++v) {
      float* to = c + row * ldc + v * kStrip;
      if (v == kEnd) {
        _mm512_mask_storeu_ps(to, last, sums[row][v]);
      } else {
        _mm512_storeu_ps(to, sums[row][v]);
      }
    }
  }
}

using InRegisters = void (*)(std::int64_t, Strided, const float*, std::int64_t, bool, float*,
                             std::int64_t, __mmask16);

// The versions by rows and vectors.
template <int ROWS>
constexpr std::array<InRegisters, 4> kVectors = {
    multiply_in_registers<ROWS, 1>, multiply_in_registers<ROWS, 2>, multiply_in_registers<ROWS, 3>,
    multiply_in_registers<ROWS, 4>};
constexpr std::array<std::array<InRegisters, 4>, kMostRows> kInRegisters = {
    kVectors<1>, kVectors<2>, kVectors<3>, kVectors<4>, kVectors<5>, kVectors<6>};

// c [m, n] for n <= kTile.
void multiply_panel(std::int64_t m, std::int64_t n, std::int64_t k, Strided a, const float* b,
                    std::int64_t ldb, bool adds, float* c, std::int64_t ldc) {
  const auto vectors = static_cast<std::size_t>((n + kStrip - 1) / kStrip);
  const __mmask16 last = first_numbers(n - static_cast<std::int64_t>(vectors - 1) * kStrip);
  for (std::int64_t row = 0; row < m; row += kMostRows) {
    const auto rows = static_cast<std::size_t>(std::min<std::int64_t>(kMostRows, m - row));
    const Strided from{a.first + row * a.row_stride, a.row_stride, a.column_stride};
    kInRegisters[rows - 1][vectors - 1](k, from, b, ldb, adds, c + row * ldc, ldc, last);
  }
}

}  // namespace

void multiply(std::int64_t m, std::int64_t n, std::int64_t k, Strided a, const float* b,
              std::int64_t ldb, bool adds, float* c, std::int64_t ldc) {
  for (std::int64_t column = 0; column < n; column += kTile) {
    multiply_panel(m, std::min(kTile, n - column), k, a, b + column, ldb, adds, c + column, ldc);
  }
}

void multiply_by_transpose(std::int64_t m, std::int64_t n, std::int64_t k, Strided a,
                           const float* y, std::int64_t ldy, bool adds, float* c,
                           std::int64_t ldc) {
  thread_local std::vector<float> panel;  // one kTile columns wide
  panel.resize(static_cast<std::size_t>(
      std::max<std::int64_t>(static_cast<std::int64_t>(panel.size()), k * kTile)));
  for (std::int64_t column = 0; column < n; column += kTile) {
    const std::int64_t columns = std::min(kTile, n - column);
    for (std::int64_t strip = 0; strip * kStrip < columns; ++strip) {
      const std::int64_t row = column + strip * kStrip;
      pack_strip(y + row * ldy, ldy, std::min(kStrip, n - row), k, panel.data(), strip);
    }
    multiply_panel(m, columns, k, a, panel.data(), kTile, adds, c + column, ldc);
  }
}

namespace {

// c [ROWS, n] of the columns that `head` selects in the first of the strips, `tail` in the last,
// and all between; c begins at the first column of the first strip.
template <int ROWS, int STRIPS>
BIPO_AVX512 inline void multiply_strips_in_registers(std::int64_t k, Strided a, const float* strips,
                                                     float* c, std::int64_t ldc, __mmask16 head,
                                                     __mmask16 tail) {
  __m512 sums[ROWS][STRIPS];
  BIPO_IN_REGISTERS
  for (int row = 0; row < ROWS; ++row) {
    BIPO_IN_REGISTERS
    for (int strip = 0; strip < STRIPS; ++strip) {
      sums[row][strip] = _mm512_setzero_ps();
    }
  }
  for (std::int64_t i = 0; i < k; ++i) {
    __m512 numbers[STRIPS];
    BIPO_IN_REGISTERS
    for (int strip = 0; strip < STRIPS; ++strip) {
      numbers[strip] = _mm512_loadu_ps(strips + (strip * k + i) * kStrip);
    }
    BIPO_IN_REGISTERS
    for (int row = 0; row < ROWS; ++row) {
      const __m512 factor = _mm512_set1_ps(a.first[row * a.row_stride + i * a.column_stride]);
      BIPO_IN_REGISTERS
      for (int strip = 0; strip < STRIPS; ++strip) {
        sums[row][strip] = _mm512_fmadd_ps(factor, numbers[strip], sums[row][strip]);
      }
    }
  }
  BIPO_IN_REGISTERS
  for (int row = 0; row < ROWS; ++row) {
    BIPO_IN_REGISTERS
    for (int strip = 0; strip < STRIPS; ++strip) {
      const unsigned there = (strip == 0 ? head : 0xffffU) & (strip == STRIPS - 1 ? tail : 0xffffU);
      _mm512_mask_storeu_ps(c + row * ldc + strip * kStrip, static_cast<__mmask16>(there),
                            sums[row][strip]);
    }
  }
}

using StripsInRegisters = void (*)(std::int64_t, Strided, const float*, float*, std::int64_t,
                                   __mmask16, __mmask16);

// The versions by rows and strips.
template <int ROWS>
constexpr std::array<StripsInRegisters, 4> kStrips = {
    multiply_strips_in_registers<ROWS, 1>, multiply_strips_in_registers<ROWS, 2>,
    multiply_strips_in_registers<ROWS, 3>, multiply_strips_in_registers<ROWS, 4>};
constexpr std::array<std::array<StripsInRegisters, 4>, kMostRows> kStripsInRegisters = {
    kStrips<1>, kStrips<2>, kStrips<3>, kStrips<4>, kStrips<5>, kStrips<6>};

}  // namespace

void multiply_by_strips(std::int64_t m, std::int64_t n, std::int64_t k, Strided a,
                        const float* strips, std::int64_t first, float* c, std::int64_t ldc) {
  constexpr std::int64_t kTogether = kTile / kStrip;
  const std::int64_t end = first + n;
  const std::int64_t end_strip = whole_strips(end) / kStrip;
  for (std::int64_t strip = first / kStrip; strip < end_strip; strip += kTogether) {
    const std::int64_t count = std::min(kTogether, end_strip - strip);
    const std::int64_t unwanted = std::max<std::int64_t>(0, first - strip * kStrip);
    const auto head = static_cast<__mmask16>(~unsigned{first_numbers(unwanted)});
    const __mmask16 tail = first_numbers(end - (strip + count - 1) * kStrip);
    for (std::int64_t row = 0; row < m; row += kMostRows) {
      const auto rows = static_cast<std::size_t>(std::min<std::int64_t>(kMostRows, m - row));
      kStripsInRegisters[rows - 1][static_cast<std::size_t>(count) - 1](
          k, {a.first + row * a.row_stride, a.row_stride, a.column_stride},
          strips + strip * k * kStrip, c + row * ldc + (strip * kStrip - first), ldc, head, tail);
    }
  }
}

#else  // no tiles are multiplied on other processors

bool runs_here() {
  return false;
}

bool rounds_here() {
  return false;
}

namespace {

[[noreturn]] void refuse() {
  throw BugError("operands are packed for tiles on a processor without AVX-512");
}

}  // namespace

void pack_strip(const float*, std::int64_t, std::int64_t, std::int64_t, float*, std::int64_t) {
  refuse();
}
void pack_strip(const float*, std::int64_t, std::int64_t, std::int64_t, c10::BFloat16*,
                std::int64_t) {
  refuse();
}
void pack_columns(const float*, std::int64_t, std::int64_t, std::int64_t, float*) {
  refuse();
}
void pack_columns(const c10::BFloat16*, std::int64_t, std::int64_t, std::int64_t, c10::BFloat16*) {
  refuse();
}
void store_transposed(const float*, std::int64_t, std::int64_t, const float*, float*,
                      std::int64_t) {
  refuse();
}
void multiply(std::int64_t, std::int64_t, std::int64_t, Strided, const float*, std::int64_t, bool,
              float*, std::int64_t) {
  refuse();
}
void multiply_by_transpose(std::int64_t, std::int64_t, std::int64_t, Strided, const float*,
                           std::int64_t, bool, float*, std::int64_t) {
  refuse();
}
void multiply_by_strips(std::int64_t, std::int64_t, std::int64_t, Strided, const float*,
                        std::int64_t, float*, std::int64_t) {
  refuse();
}

#endif

}  // namespace bipo::tiles
