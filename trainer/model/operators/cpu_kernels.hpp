// The decoder's elementwise and row-wise loops for the CPU, each one pass over memory where the
// same arithmetic as separate tensor operations would take several.
#pragma once

#include <cstdint>

namespace bipo::kernels {

// T rows, D hidden, K head size, I MLP columns.  Matrices are row-major; `stride` is the distance
// between rows in elements.  Every function works on the rows it is given, so that callers split
// rows over threads.

// y[t] = x[t] * scale[t] * weight, scale[t] = 1 / sqrt(mean(x[t]^2) + epsilon).
void rms_norm(const float* x, const float* weight, float epsilon, std::int64_t rows,
              std::int64_t columns, float* y, float* scale);

// dx of the above, given dy.
void rms_norm_backward(const float* x, const float* weight, const float* scale, const float* dy,
                       std::int64_t rows, std::int64_t columns, float* dx);

// out[t, i] = silu(gate) * up, for gate_up[t] = gate (I numbers), up (I numbers).
void swiglu(const float* gate_up, std::int64_t rows, std::int64_t columns, float* out);

// d gate_up of the above, given d out.
void swiglu_backward(const float* gate_up, const float* d_out, std::int64_t rows,
                     std::int64_t columns, float* d_gate_up);

// The same two with GELU in its tanh approximation in the place of silu.
void geglu(const float* gate_up, std::int64_t rows, std::int64_t columns, float* out);
void geglu_backward(const float* gate_up, const float* d_out, std::int64_t rows,
                    std::int64_t columns, float* d_gate_up);

// One head: out[t] = factor * rotation of x[t] by the angles whose cosines and sines are cos[t] and
// sin[t] (K / 2 each), pairing element i with i + K / 2.  `turn` is +1, or -1 for the way back.
void rotate(const float* x, std::int64_t x_stride, const float* cos, const float* sin, float turn,
            float factor, std::int64_t rows, std::int64_t head_size, float* out,
            std::int64_t out_stride);

// x becomes cap tanh(x / cap) (Gemma 2, arXiv 2408.00118, section 2).
void soft_cap(float* x, std::int64_t count, float cap);

// slopes[i] = d capped / d x = 1 - (capped / cap)^2, from the capped values.
void soft_cap_slopes(const float* capped, std::int64_t count, float cap, float* slopes);

// x[i] *= y[i].
void multiply(float* x, const float* y, std::int64_t count);

// Columns of attention scores that each row sees: row r the first `first + r`, of those the last
// `window` (0: all).
struct Visible {
  std::int64_t first = 1;
  std::int64_t window = 0;
};

// Rows of attention scores to probabilities, in place: what a row does not see becomes 0.
// log_sums[r] = log sum exp of what it sees.
void softmax_rows(float* scores, std::int64_t rows, std::int64_t columns, Visible visible,
                  float* log_sums);

// The same probabilities again, from scores and their log_sums.
void probabilities_again(float* scores, std::int64_t rows, std::int64_t columns, Visible visible,
                         const float* log_sums);

// d_probabilities becomes d_scores: p * (dp - sum(p dp)), row by row.
void softmax_backward_rows(const float* probabilities, std::int64_t rows, std::int64_t columns,
                           float* d_probabilities);

// One block of columns of an online softmax (Milakov and Gimelshein, arXiv 1805.02867, algorithm
// 3): logits become exp(logit - new maximum); largest and sum, over all blocks so far, are brought
// up to date, and shrink[r] = exp(old maximum - new maximum) is what earlier sums must be scaled
// by. Begin with largest = -infinity, sum = 0.
void online_softmax_block(float* logits, std::int64_t rows, std::int64_t columns, float* largest,
                          float* sum, float* shrink);

// to[i] = from[i] rounded to the nearest bfloat16, to even where two are as near.
void round_to_bfloat16(const float* from, std::int64_t count, float* to);

}  // namespace bipo::kernels
