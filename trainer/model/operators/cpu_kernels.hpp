// The decoder's elementwise and row-wise loops for the CPU: each needs one pass over memory where
// separate tensor operations would need several.
#pragma once

#include <cstdint>

namespace bipo::kernels {

// T rows, D hidden, K head size, I MLP columns.  Matrices are row-major.  Every function processes
// the rows it is given, so that callers split rows over threads.

// Columns of a row-major matrix: the first row's first element, and the distance between rows in
// elements.
struct Columns {
  float* first = nullptr;
  std::int64_t stride = 0;
};
struct ConstColumns {
  const float* first = nullptr;
  std::int64_t stride = 0;
};

// y[t] = x[t] * scale[t] * weight, scale[t] = 1 / sqrt(mean(x[t]^2) + epsilon).
void rms_norm(const float* x, const float* weight, float epsilon, std::int64_t rows,
              std::int64_t columns, float* y, float* scale);

// Computes dx of the above from dy.
void rms_norm_backward(const float* x, const float* weight, const float* scale, const float* dy,
                       std::int64_t rows, std::int64_t columns, float* dx);

// out[t, i] = silu(gate) * up, for gate_up[t] = gate (I numbers), up (I numbers).
void swiglu(const float* gate_up, std::int64_t rows, std::int64_t columns, float* out);

// Computes d gate_up of the above from d out.
void swiglu_backward(const float* gate_up, const float* d_out, std::int64_t rows,
                     std::int64_t columns, float* d_gate_up);

// The same two with the tanh approximation of GELU instead of silu.
void geglu(const float* gate_up, std::int64_t rows, std::int64_t columns, float* out);
void geglu_backward(const float* gate_up, const float* d_out, std::int64_t rows,
                    std::int64_t columns, float* d_gate_up);

// out[i] = sigmoid(gate[i]) x[i].
void open_gates(const float* x, const float* gate, std::int64_t count, float* out);

// out[t, i] = gelu(x[t, i] + bias[i]), x [T, I]; a null bias is 0.
void gelu(const float* x, const float* bias, std::int64_t rows, std::int64_t columns, float* out);

// Computes dx of the above from d out.
void gelu_backward(const float* x, const float* bias, const float* d_out, std::int64_t rows,
                   std::int64_t columns, float* dx);

// The same two with the tanh approximation.
void gelu_tanh(const float* x, const float* bias, std::int64_t rows, std::int64_t columns,
               float* out);
void gelu_tanh_backward(const float* x, const float* bias, const float* d_out, std::int64_t rows,
                        std::int64_t columns, float* dx);

// The angles of T rows of one head: cosines and sines of row t begin at cos + t K / 2 and sin + t K
// / 2.  `turn` is +1, or -1 to turn back.
struct Rotation {
  const float* cos = nullptr;
  const float* sin = nullptr;
  float turn = 1;
  float factor = 1;
};

// out[t] = factor * rotation of x[t], pairing element i with i + K / 2.
void rotate(ConstColumns x, Rotation rotation, std::int64_t rows, std::int64_t head_size,
            Columns out);

// x = cap tanh(x / cap) (Gemma 2, arXiv 2408.00118, section 2).
void soft_cap(float* x, std::int64_t count, float cap);

// slopes[i] = d capped / d x = 1 - (capped / cap)^2, from the capped values.
void soft_cap_slopes(const float* capped, std::int64_t count, float cap, float* slopes);

// x[i] *= y[i].
void multiply(float* x, const float* y, std::int64_t count);

// Which columns of attention scores each row sees: row r sees the last `window` (0: all) of the
// first `first + r`.
struct Visible {
  std::int64_t first = 1;
  std::int64_t window = 0;
};

// Turns rows of attention scores into probabilities, in place; columns that a row does not see
// become 0.  log_sums[r] = log sum exp over the columns that it sees.
void softmax_rows(float* scores, std::int64_t rows, std::int64_t columns, Visible visible,
                  float* log_sums);

// Computes the same probabilities from scores and their log_sums.
void probabilities_again(float* scores, std::int64_t rows, std::int64_t columns, Visible visible,
                         const float* log_sums);

// Turns d_probabilities into d_scores, p * (dp - sum(p dp)), row by row.
void softmax_backward_rows(const float* probabilities, std::int64_t rows, std::int64_t columns,
                           float* d_probabilities);

// One block of columns of an online softmax (Milakov and Gimelshein, arXiv 1805.02867, algorithm
// 3): turns logits into exp(logit - new maximum), updates the largest logit and the sum over all
// blocks so far, and writes shrink[r] = exp(old maximum - new maximum), the factor for earlier
// sums.  Begin with largest = -infinity, sum = 0.
void online_softmax_block(float* logits, std::int64_t rows, std::int64_t columns, float* largest,
                          float* sum, float* shrink);

// to[i] = from[i] rounded to the nearest bfloat16, ties to even.
void round_to_bfloat16(const float* from, std::int64_t count, float* to);

}  // namespace bipo::kernels
