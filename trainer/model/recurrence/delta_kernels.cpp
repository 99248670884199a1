#include "trainer/model/recurrence/delta_kernels.hpp"

#include <algorithm>
#include <cmath>

#include "trainer/model/operators/for_each_processor.hpp"

namespace bipo::kernels {
namespace {

// Keeps the length of a row of zeros from dividing by zero.
constexpr float kUnitEpsilon = 1e-6F;

// From here on ln(1 + exp(x)) is x.
constexpr float kLinearFrom = 20;

[[gnu::always_inline]] inline float product_of(const float* __restrict x, const float* __restrict y,
                                               std::int64_t count) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < count; ++i) {
    sum += x[i] * y[i];
  }
  return sum;
}

[[gnu::always_inline]] inline void add_to(const float* __restrict y, float factor,
                                          std::int64_t count, float* __restrict x) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) {
    x[i] += factor * y[i];
  }
}

// Sums of a convolution of one row: sums[i] = sum over taps of weight[tap][i] rows[tap][i].
[[gnu::always_inline]] inline void convolution_sums(const float* const* rows, std::int64_t taps,
                                                    const float* weight, std::int64_t stride,
                                                    std::int64_t columns, float* __restrict sums) {
  std::fill_n(sums, columns, 0.0F);
  for (std::int64_t tap = 0; tap < taps; ++tap) {
    const float* __restrict row = rows[tap];
    const float* __restrict of_tap = weight + tap * stride;
    if (row == nullptr) {
      continue;
    }
#pragma omp simd
    for (std::int64_t i = 0; i < columns; ++i) {
      sums[i] += of_tap[i] * row[i];
    }
  }
}

}  // namespace

BIPO_FOR_EACH_PROCESSOR
void unit_rows(ConstColumns x, std::int64_t rows, std::int64_t size, float factor, Columns units,
               float* scales) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* __restrict row = x.first + r * x.stride;
    float* __restrict to = units.first + r * units.stride;
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (std::int64_t i = 0; i < size; ++i) {
      squares += row[i] * row[i];
    }
    const float scale = factor / std::sqrt(squares + kUnitEpsilon);
    scales[r] = scale;
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) {
      to[i] = scale * row[i];
    }
  }
}

BIPO_FOR_EACH_PROCESSOR
void unit_rows_backward(ConstColumns units, const float* scales, float factor, ConstColumns d_units,
                        std::int64_t rows, std::int64_t size, Columns dx) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* __restrict unit = units.first + r * units.stride;
    const float* __restrict d_unit = d_units.first + r * d_units.stride;
    float* __restrict to = dx.first + r * dx.stride;
    const float along = product_of(unit, d_unit, size) / (factor * factor);
    const float scale = scales[r];
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) {
      to[i] = scale * (d_unit[i] - unit[i] * along);
    }
  }
}

BIPO_FOR_EACH_PROCESSOR
void scale_rows(ConstColumns x, const float* factors, std::int64_t rows, std::int64_t size,
                bool adds, Columns to) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* row = x.first + r * x.stride;
    float* out = to.first + r * to.stride;
    const float factor = factors[r];
    if (adds) {
      add_to(row, factor, size, out);
      continue;
    }
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) {
      out[i] = factor * row[i];
    }
  }
}

BIPO_FOR_EACH_PROCESSOR
void row_products(ConstColumns x, ConstColumns y, std::int64_t rows, std::int64_t size, float* to) {
  for (std::int64_t r = 0; r < rows; ++r) {
    to[r] = product_of(x.first + r * x.stride, y.first + r * y.stride, size);
  }
}

BIPO_FOR_EACH_PROCESSOR
void add_multiple(const float* y, float factor, std::int64_t count, float* x) {
  add_to(y, factor, count, x);
}

BIPO_FOR_EACH_PROCESSOR
float dot(const float* x, const float* y, std::int64_t count) {
  return product_of(x, y, count);
}

BIPO_FOR_EACH_PROCESSOR
void pair_decays(const double* sums, std::int64_t rows, float* decays) {
  for (std::int64_t i = 0; i < rows; ++i) {
    float* __restrict row = decays + i * rows;
    const double sum = sums[i];
#pragma omp simd
    for (std::int64_t j = 0; j <= i; ++j) {
      row[j] = static_cast<float>(sum - sums[j]);
    }
#pragma omp simd
    for (std::int64_t j = 0; j <= i; ++j) {
      row[j] = std::exp(row[j]);
    }
    std::fill(row + i + 1, row + rows, 0.0F);
  }
}

BIPO_FOR_EACH_PROCESSOR
void strictly_lower(const float* x, const float* y, const float* factors, std::int64_t rows,
                    float* to) {
  for (std::int64_t i = 0; i < rows; ++i) {
    const float* left = x + i * rows;
    const float* right = y + i * rows;
    float* out = to + i * rows;
    const float factor = factors[i];
#pragma omp simd
    for (std::int64_t j = 0; j < i; ++j) {
      out[j] = factor * left[j] * right[j];
    }
    std::fill(out + i, out + rows, 0.0F);
  }
}

BIPO_FOR_EACH_PROCESSOR
void products(const float* x, const float* y, std::int64_t count, bool adds, float* to) {
  if (adds) {
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) {
      to[i] += x[i] * y[i];
    }
    return;
  }
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) {
    to[i] = x[i] * y[i];
  }
}

BIPO_FOR_EACH_PROCESSOR
void add_row_less_column_sums(const float* x, const float* y, std::int64_t rows, float* to) {
  for (std::int64_t i = 0; i < rows; ++i) {
    const float* __restrict left = x + i * rows;
    const float* __restrict right = y + i * rows;
    to[i] += product_of(left, right, rows);
#pragma omp simd
    for (std::int64_t j = 0; j < rows; ++j) {
      to[j] -= left[j] * right[j];
    }
  }
}

BIPO_FOR_EACH_PROCESSOR
void solve_lower(const float* lower, std::int64_t rows, std::int64_t stride, std::int64_t size,
                 Columns x) {
  for (std::int64_t i = 1; i < rows; ++i) {
    for (std::int64_t j = 0; j < i; ++j) {
      add_to(x.first + j * x.stride, -lower[i * stride + j], size, x.first + i * x.stride);
    }
  }
}

BIPO_FOR_EACH_PROCESSOR
void solve_lower_transposed(const float* lower, std::int64_t rows, std::int64_t stride,
                            std::int64_t size, Columns x) {
  for (std::int64_t i = rows - 1; i > 0; --i) {
    for (std::int64_t j = 0; j < i; ++j) {
      add_to(x.first + i * x.stride, -lower[i * stride + j], size, x.first + j * x.stride);
    }
  }
}

BIPO_FOR_EACH_PROCESSOR
void rates(const float* x, const float* bias, const float* scale, const float* y,
           std::int64_t count, float* decays, float* steps) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float sum = x[i] + bias[i];
    decays[i] = scale[i] * (sum > kLinearFrom ? sum : std::log1p(std::exp(sum)));
    steps[i] = 1 / (1 + std::exp(-y[i]));
  }
}

BIPO_FOR_EACH_PROCESSOR
void step_state(const float* query, const float* key, const float* value, float decay, float step,
                std::int64_t keys, std::int64_t values, float* state, float* read, float* out) {
  std::fill_n(read, values, 0.0F);
  for (std::int64_t k = 0; k < keys; ++k) {
    float* __restrict row = state + k * values;
    const float of_key = key[k];
#pragma omp simd
    for (std::int64_t v = 0; v < values; ++v) {
      row[v] *= decay;
      read[v] += of_key * row[v];
    }
  }
#pragma omp simd
  for (std::int64_t v = 0; v < values; ++v) {
    read[v] = step * (value[v] - read[v]);
  }
  std::fill_n(out, values, 0.0F);
  for (std::int64_t k = 0; k < keys; ++k) {
    float* __restrict row = state + k * values;
    const float of_key = key[k];
    const float of_query = query[k];
#pragma omp simd
    for (std::int64_t v = 0; v < values; ++v) {
      row[v] += of_key * read[v];
      out[v] += of_query * row[v];
    }
  }
}

BIPO_FOR_EACH_PROCESSOR
void convolve_row(const float* const* rows, std::int64_t taps, const float* weight,
                  std::int64_t stride, std::int64_t columns, float* out) {
  convolution_sums(rows, taps, weight, stride, columns, out);
#pragma omp simd
  for (std::int64_t i = 0; i < columns; ++i) {
    out[i] = out[i] / (1 + std::exp(-out[i]));
  }
}

BIPO_FOR_EACH_PROCESSOR
void convolve_row_backward(const float* const* rows, std::int64_t taps, const float* weight,
                           std::int64_t stride, std::int64_t columns, const float* d_out,
                           float* slopes, float* const* d_rows) {
  convolution_sums(rows, taps, weight, stride, columns, slopes);
#pragma omp simd
  for (std::int64_t i = 0; i < columns; ++i) {
    const float sigmoid = 1 / (1 + std::exp(-slopes[i]));
    slopes[i] = d_out[i] * sigmoid * (1 + slopes[i] * (1 - sigmoid));
  }
  for (std::int64_t tap = 0; tap < taps; ++tap) {
    float* __restrict row = d_rows[tap];
    const float* __restrict of_tap = weight + tap * stride;
    if (row == nullptr) {
      continue;
    }
#pragma omp simd
    for (std::int64_t i = 0; i < columns; ++i) {
      row[i] += of_tap[i] * slopes[i];
    }
  }
}

}  // namespace bipo::kernels
