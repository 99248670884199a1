#include "trainer/model/operators/cpu_kernels.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

#include "trainer/model/operators/for_each_processor.hpp"

namespace bipo::kernels {
namespace {

[[gnu::always_inline]] inline float largest_of(const float* row, std::int64_t count, float so_far) {
  float largest = so_far;
#pragma omp simd reduction(max : largest)
  for (std::int64_t i = 0; i < count; ++i) {
    largest = row[i] > largest ? row[i] : largest;
  }
  return largest;
}

// row[i] = exp(row[i] - shift); returns their sum.
[[gnu::always_inline]] inline float exponentials(float* __restrict row, std::int64_t count,
                                                 float shift) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < count; ++i) {
    row[i] = std::exp(row[i] - shift);
    sum += row[i];
  }
  return sum;
}

struct Seen {
  std::int64_t begin;
  std::int64_t end;
};

[[gnu::always_inline]] inline Seen seen_by(Visible visible, std::int64_t row,
                                           std::int64_t columns) {
  const std::int64_t end = std::min(columns, visible.first + row);
  return {visible.window == 0 ? 0 : std::max<std::int64_t>(0, visible.first + row - visible.window),
          end};
}

[[gnu::always_inline]] inline void clear_unseen(float* row, Seen seen, std::int64_t columns) {
  std::fill(row, row + seen.begin, 0.0F);
  std::fill(row + seen.end, row + columns, 0.0F);
}

// Activations of the form x sigmoid(s(x)): s, and its derivative.
struct Silu {
  [[gnu::always_inline]] static inline float inner(float x) { return x; }
  [[gnu::always_inline]] static inline float slope(float /*x*/) { return 1; }
};

// 0.5 (1 + tanh(u)) = sigmoid(2 u).
struct GeluTanh {
  static constexpr float kTwice = 1.5957691216F;  // 2 sqrt(2 / pi)
  static constexpr float kCubic = 0.044715F;
  [[gnu::always_inline]] static inline float inner(float x) {
    return kTwice * (x + kCubic * x * x * x);
  }
  [[gnu::always_inline]] static inline float slope(float x) {
    return kTwice * (1 + 3 * kCubic * x * x);
  }
};

// Where the sigmoid is 0 the slope may be infinite; their product there is 0.
template <class Activation>
[[gnu::always_inline]] inline float activation_slope(float x, float sigmoid) {
  const float rest = sigmoid * (1 - sigmoid);
  return sigmoid + x * (rest > 0 ? rest * Activation::slope(x) : 0);
}

// Activations of one input: value and derivative.
template <class Activation>
struct BySigmoid {
  [[gnu::always_inline]] static inline float sigmoid(float x) {
    return 1 / (1 + std::exp(-Activation::inner(x)));
  }
  [[gnu::always_inline]] static inline float value(float x) { return x * sigmoid(x); }
  [[gnu::always_inline]] static inline float derivative(float x) {
    return activation_slope<Activation>(x, sigmoid(x));
  }
};

// x times the normal distribution function (Hendrycks and Gimpel, arXiv 1606.08415, section 2).
struct Gelu {
  static constexpr float kRootHalf = 0.7071067812F;    // sqrt(1 / 2)
  static constexpr float kDensityAt0 = 0.3989422804F;  // 1 / sqrt(2 pi)
  [[gnu::always_inline]] static inline float probability(float x) {
    return 0.5F * (1 + std::erf(kRootHalf * x));
  }
  [[gnu::always_inline]] static inline float value(float x) { return x * probability(x); }
  [[gnu::always_inline]] static inline float derivative(float x) {
    return probability(x) + x * kDensityAt0 * std::exp(-0.5F * x * x);
  }
};

template <class Activation>
[[gnu::always_inline]] inline void plain_unit(const float* x, const float* bias, std::int64_t rows,
                                              std::int64_t columns, float* out) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* __restrict row = x + r * columns;
    float* __restrict result = out + r * columns;
    if (bias == nullptr) {
#pragma omp simd
      for (std::int64_t i = 0; i < columns; ++i) {
        result[i] = Activation::value(row[i]);
      }
    } else {
#pragma omp simd
      for (std::int64_t i = 0; i < columns; ++i) {
        result[i] = Activation::value(row[i] + bias[i]);
      }
    }
  }
}

template <class Activation>
[[gnu::always_inline]] inline void plain_unit_backward(const float* x, const float* bias,
                                                       const float* d_out, std::int64_t rows,
                                                       std::int64_t columns, float* dx) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* __restrict row = x + r * columns;
    const float* __restrict upstream = d_out + r * columns;
    float* __restrict result = dx + r * columns;
    if (bias == nullptr) {
#pragma omp simd
      for (std::int64_t i = 0; i < columns; ++i) {
        result[i] = upstream[i] * Activation::derivative(row[i]);
      }
    } else {
#pragma omp simd
      for (std::int64_t i = 0; i < columns; ++i) {
        result[i] = upstream[i] * Activation::derivative(row[i] + bias[i]);
      }
    }
  }
}

template <class Activation>
[[gnu::always_inline]] inline void gated_unit(const float* gate_up, std::int64_t rows,
                                              std::int64_t columns, float* out) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* __restrict gate = gate_up + 2 * r * columns;
    const float* __restrict up = gate + columns;
    float* __restrict result = out + r * columns;
#pragma omp simd
    for (std::int64_t i = 0; i < columns; ++i) {
      result[i] = gate[i] / (1 + std::exp(-Activation::inner(gate[i]))) * up[i];
    }
  }
}

template <class Activation>
[[gnu::always_inline]] inline void gated_unit_backward(const float* gate_up, const float* d_out,
                                                       std::int64_t rows, std::int64_t columns,
                                                       float* d_gate_up) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* __restrict gate = gate_up + 2 * r * columns;
    const float* __restrict up = gate + columns;
    const float* __restrict upstream = d_out + r * columns;
    float* __restrict d_gate = d_gate_up + 2 * r * columns;
    float* __restrict d_up = d_gate + columns;
#pragma omp simd
    for (std::int64_t i = 0; i < columns; ++i) {
      const float sigmoid = 1 / (1 + std::exp(-Activation::inner(gate[i])));
      d_up[i] = upstream[i] * gate[i] * sigmoid;
      d_gate[i] = upstream[i] * up[i] * activation_slope<Activation>(gate[i], sigmoid);
    }
  }
}

}  // namespace

BIPO_FOR_EACH_PROCESSOR void rms_norm(const float* x, const float* weight, float epsilon,
                                      std::int64_t rows, std::int64_t columns, float* y,
                                      float* scale) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* __restrict row = x + r * columns;
    float* __restrict out = y + r * columns;
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (std::int64_t i = 0; i < columns; ++i) {
      squares += row[i] * row[i];
    }
    const float s = 1 / std::sqrt(squares / static_cast<float>(columns) + epsilon);
    scale[r] = s;
    for (std::int64_t i = 0; i < columns; ++i) {
      out[i] = row[i] * s * weight[i];
    }
  }
}

// For the scale r and u = dy * weight: dx = r u - r^3 mean(u x) x.
BIPO_FOR_EACH_PROCESSOR void rms_norm_backward(const float* x, const float* weight,
                                               const float* scale, const float* dy,
                                               std::int64_t rows, std::int64_t columns, float* dx) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* __restrict row = x + r * columns;
    const float* __restrict upstream = dy + r * columns;
    float* __restrict out = dx + r * columns;
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (std::int64_t i = 0; i < columns; ++i) {
      dot += upstream[i] * weight[i] * row[i];
    }
    const float s = scale[r];
    const float along = dot / static_cast<float>(columns) * s * s;
    for (std::int64_t i = 0; i < columns; ++i) {
      out[i] = (upstream[i] * weight[i] - along * row[i]) * s;
    }
  }
}

BIPO_FOR_EACH_PROCESSOR void swiglu(const float* gate_up, std::int64_t rows, std::int64_t columns,
                                    float* out) {
  gated_unit<Silu>(gate_up, rows, columns, out);
}

BIPO_FOR_EACH_PROCESSOR void swiglu_backward(const float* gate_up, const float* d_out,
                                             std::int64_t rows, std::int64_t columns,
                                             float* d_gate_up) {
  gated_unit_backward<Silu>(gate_up, d_out, rows, columns, d_gate_up);
}

BIPO_FOR_EACH_PROCESSOR void geglu(const float* gate_up, std::int64_t rows, std::int64_t columns,
                                   float* out) {
  gated_unit<GeluTanh>(gate_up, rows, columns, out);
}

BIPO_FOR_EACH_PROCESSOR void geglu_backward(const float* gate_up, const float* d_out,
                                            std::int64_t rows, std::int64_t columns,
                                            float* d_gate_up) {
  gated_unit_backward<GeluTanh>(gate_up, d_out, rows, columns, d_gate_up);
}

BIPO_FOR_EACH_PROCESSOR void open_gates(const float* x, const float* gate, std::int64_t count,
                                        float* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    out[i] = x[i] / (1 + std::exp(-gate[i]));
  }
}

BIPO_FOR_EACH_PROCESSOR void gelu(const float* x, const float* bias, std::int64_t rows,
                                  std::int64_t columns, float* out) {
  plain_unit<Gelu>(x, bias, rows, columns, out);
}

BIPO_FOR_EACH_PROCESSOR void gelu_backward(const float* x, const float* bias, const float* d_out,
                                           std::int64_t rows, std::int64_t columns, float* dx) {
  plain_unit_backward<Gelu>(x, bias, d_out, rows, columns, dx);
}

BIPO_FOR_EACH_PROCESSOR void gelu_tanh(const float* x, const float* bias, std::int64_t rows,
                                       std::int64_t columns, float* out) {
  plain_unit<BySigmoid<GeluTanh>>(x, bias, rows, columns, out);
}

BIPO_FOR_EACH_PROCESSOR void gelu_tanh_backward(const float* x, const float* bias,
                                                const float* d_out, std::int64_t rows,
                                                std::int64_t columns, float* dx) {
  plain_unit_backward<BySigmoid<GeluTanh>>(x, bias, d_out, rows, columns, dx);
}

BIPO_FOR_EACH_PROCESSOR void rotate(ConstColumns x, Rotation rotation, std::int64_t rows,
                                    std::int64_t head_size, Columns out) {
  const std::int64_t half = head_size / 2;
  const float turn = rotation.turn;
  const float factor = rotation.factor;
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* __restrict a = x.first + r * x.stride;
    const float* __restrict b = a + half;
    const float* __restrict c = rotation.cos + r * half;
    const float* __restrict s = rotation.sin + r * half;
    float* __restrict first = out.first + r * out.stride;
    float* __restrict second = first + half;
    for (std::int64_t i = 0; i < half; ++i) {
      first[i] = (a[i] * c[i] - b[i] * turn * s[i]) * factor;
      second[i] = (b[i] * c[i] + a[i] * turn * s[i]) * factor;
    }
  }
}

BIPO_FOR_EACH_PROCESSOR void soft_cap(float* __restrict x, std::int64_t count, float cap) {
  for (std::int64_t i = 0; i < count; ++i) {
    x[i] = cap * std::tanh(x[i] / cap);
  }
}

BIPO_FOR_EACH_PROCESSOR void soft_cap_slopes(const float* __restrict capped, std::int64_t count,
                                             float cap, float* __restrict slopes) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float part = capped[i] / cap;
    slopes[i] = 1 - part * part;
  }
}

BIPO_FOR_EACH_PROCESSOR void multiply(float* __restrict x, const float* __restrict y,
                                      std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    x[i] *= y[i];
  }
}

BIPO_FOR_EACH_PROCESSOR void softmax_rows(float* scores, std::int64_t rows, std::int64_t columns,
                                          Visible visible, float* log_sums) {
  for (std::int64_t r = 0; r < rows; ++r) {
    float* __restrict row = scores + r * columns;
    const Seen seen = seen_by(visible, r, columns);
    float* __restrict first = row + seen.begin;
    const std::int64_t count = seen.end - seen.begin;
    const float largest = largest_of(first, count, first[0]);
    const float sum = exponentials(first, count, largest);
    const float inverse = 1 / sum;
    for (std::int64_t i = 0; i < count; ++i) {
      first[i] *= inverse;
    }
    clear_unseen(row, seen, columns);
    log_sums[r] = largest + std::log(sum);
  }
}

BIPO_FOR_EACH_PROCESSOR void probabilities_again(float* scores, std::int64_t rows,
                                                 std::int64_t columns, Visible visible,
                                                 const float* log_sums) {
  for (std::int64_t r = 0; r < rows; ++r) {
    float* __restrict row = scores + r * columns;
    const Seen seen = seen_by(visible, r, columns);
    const float shift = log_sums[r];
#pragma omp simd
    for (std::int64_t i = seen.begin; i < seen.end; ++i) {
      row[i] = std::exp(row[i] - shift);
    }
    clear_unseen(row, seen, columns);
  }
}

BIPO_FOR_EACH_PROCESSOR void softmax_backward_rows(const float* probabilities, std::int64_t rows,
                                                   std::int64_t columns, float* d_probabilities) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* __restrict p = probabilities + r * columns;
    float* __restrict d = d_probabilities + r * columns;
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (std::int64_t i = 0; i < columns; ++i) {
      dot += p[i] * d[i];
    }
    for (std::int64_t i = 0; i < columns; ++i) {
      d[i] = p[i] * (d[i] - dot);
    }
  }
}

BIPO_FOR_EACH_PROCESSOR void online_softmax_block(float* logits, std::int64_t rows,
                                                  std::int64_t columns, float* largest, float* sum,
                                                  float* shrink) {
  for (std::int64_t r = 0; r < rows; ++r) {
    float* __restrict row = logits + r * columns;
    const float now = largest_of(row, columns, largest[r]);
    shrink[r] = std::exp(largest[r] - now);
    sum[r] = sum[r] * shrink[r] + exponentials(row, columns, now);
    largest[r] = now;
  }
}

BIPO_FOR_EACH_PROCESSOR void round_to_bfloat16(const float* __restrict from, std::int64_t count,
                                               float* __restrict to) {
  for (std::int64_t i = 0; i < count; ++i) {
    const auto bits = std::bit_cast<std::uint32_t>(from[i]);
    // Adds half of the last kept bit (minus one where that bit is even), which carries into it.
    const std::uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) & 0xffff0000U;
    to[i] = std::isnan(from[i]) ? from[i] : std::bit_cast<float>(rounded);
  }
}

}  // namespace bipo::kernels
