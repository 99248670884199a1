// Loops of the gated delta rule and its convolution for the CPU; see delta_rule.hpp.  For one
// thread.
#pragma once

#include <cstdint>

#include "trainer/model/operators/cpu_kernels.hpp"

namespace bipo::kernels {

// c rows of a chunk.  Square matrices [c, c] are row-major without gaps.

// units[i] = factor x[i] / sqrt(|x[i]|^2 + 1e-6); scales[i] = factor / sqrt(|x[i]|^2 + 1e-6).
void unit_rows(ConstColumns x, std::int64_t rows, std::int64_t size, float factor, Columns units,
               float* scales);

// Computes dx of the above from d units.
void unit_rows_backward(ConstColumns units, const float* scales, float factor, ConstColumns d_units,
                        std::int64_t rows, std::int64_t size, Columns dx);

// to[i] = factors[i] x[i], or adds it.
void scale_rows(ConstColumns x, const float* factors, std::int64_t rows, std::int64_t size,
                bool adds, Columns to);

// to[i] = x[i] . y[i].
void row_products(ConstColumns x, ConstColumns y, std::int64_t rows, std::int64_t size, float* to);

// x += factor y.
void add_multiple(const float* y, float factor, std::int64_t count, float* x);

float dot(const float* x, const float* y, std::int64_t count);

// decays[i, j] = exp(sums[i] - sums[j]) for j <= i, otherwise 0.  Sums of strong decays are large,
// and their differences small: hence in double.
void pair_decays(const double* sums, std::int64_t rows, float* decays);

// to[i, j] = factors[i] x[i, j] y[i, j] for j < i, otherwise 0.
void strictly_lower(const float* x, const float* y, const float* factors, std::int64_t rows,
                    float* to);

// to = x * y, element by element, or adds it.
void products(const float* x, const float* y, std::int64_t count, bool adds, float* to);

// to[i] += sum over j of x[i, j] y[i, j] - sum over j of x[j, i] y[j, i].
void add_row_less_column_sums(const float* x, const float* y, std::int64_t rows, float* to);

// Turns x [c, size] into (I + lower)^-1 x, or into (I + lower)^-T x, for a strictly lower
// triangular matrix, by substitution.
void solve_lower(const float* lower, std::int64_t rows, std::int64_t stride, std::int64_t size,
                 Columns x);
void solve_lower_transposed(const float* lower, std::int64_t rows, std::int64_t stride,
                            std::int64_t size, Columns x);

// decays[i] = scale[i] ln(1 + exp(x[i] + bias[i])), steps[i] = 1 / (1 + exp(-y[i])).
void rates(const float* x, const float* bias, const float* scale, const float* y,
           std::int64_t count, float* decays, float* steps);

// One token of the recurrence: state = decay state, then state += key (step (value - key^T
// state))^T; out = query^T state.  `state` [keys, values]; `read` has room for `values` numbers.
void step_state(const float* query, const float* key, const float* value, float decay, float step,
                std::int64_t keys, std::int64_t values, float* state, float* read, float* out);

// sums[i] = the sum over taps of weight[tap][i] rows[tap][i] (a null row is zero), silu(sums) goes
// to out; `weight` has rows of `stride` numbers.
void convolve_row(const float* const* rows, std::int64_t taps, const float* weight,
                  std::int64_t stride, std::int64_t columns, float* out);

// Adds to d_rows[tap] what d_out of the above makes of it; a null row is left out.
void convolve_row_backward(const float* const* rows, std::int64_t taps, const float* weight,
                           std::int64_t stride, std::int64_t columns, const float* d_out,
                           float* slopes, float* const* d_rows);

}  // namespace bipo::kernels
