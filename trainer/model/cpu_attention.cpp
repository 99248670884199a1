#include "trainer/model/cpu_attention.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "trainer/model/cpu_kernels.hpp"

// libtorch brings a BLAS and exports it, but declares none of it; tensor operations cost more per
// call than products of this size.
extern "C" void sgemm_(const char* transpose_a, const char* transpose_b, const int* m, const int* n,
                       const int* k, const float* alpha, const float* a, const int* lda,
                       const float* b, const int* ldb, const float* beta, float* c, const int* ldc);

namespace bipo {
namespace {

// Queries whose scores exist at one time, per thread.
constexpr std::int64_t kQueryChunk = 128;

struct Matrix {
  const float* first;
  std::int64_t stride;
};

enum class Transposed { kNo, kYes };

// c [m, n] = op(a) op(b) + beta c, row-major; BLAS is column-major, so it is told of c^T = op(b)^T
// op(a)^T.
void multiply(std::int64_t m, std::int64_t n, std::int64_t k, Matrix a, Transposed a_transposed,
              Matrix b, Transposed b_transposed, float beta, float* c, std::int64_t c_stride) {
  const auto narrow = [](std::int64_t value) { return static_cast<int>(value); };
  const int rows = narrow(n);
  const int columns = narrow(m);
  const int inner = narrow(k);
  const int lda = narrow(a.stride);
  const int ldb = narrow(b.stride);
  const int ldc = narrow(c_stride);
  const float one = 1;
  sgemm_(b_transposed == Transposed::kYes ? "T" : "N", a_transposed == Transposed::kYes ? "T" : "N",
         &rows, &columns, &inner, &one, b.first, &ldb, a.first, &lda, &beta, c, &ldc);
}

// Queries of one span that are worked on together, and the keys that any of them sees.
struct Chunk {
  Range queries;
  std::vector<Range> keys;  // in the order of the score columns
  std::int64_t key_count = 0;
  std::int64_t first_visible = 0;  // columns that the first query sees
};

std::vector<Chunk> make_chunks(const std::vector<QuerySpan>& spans) {
  std::vector<Chunk> chunks;
  for (const QuerySpan& span : spans) {
    for (std::int64_t begin = 0; begin < span.queries.size(); begin += kQueryChunk) {
      const std::int64_t end = std::min(begin + kQueryChunk, span.queries.size());
      Chunk chunk;
      chunk.queries = {span.queries.begin + begin, span.queries.begin + end};
      chunk.keys = span.context;
      chunk.keys.push_back({span.own.begin, span.own.begin + span.visible + end - 1});
      for (const Range& range : chunk.keys) {
        chunk.key_count += range.size();
      }
      chunk.first_visible = chunk.key_count - (end - begin) + 1;
      chunks.push_back(std::move(chunk));
    }
  }
  return chunks;
}

std::int64_t most_scores(const std::vector<Chunk>& chunks) {
  std::int64_t most = 0;
  for (const Chunk& chunk : chunks) {
    most = std::max(most, chunk.queries.size() * chunk.key_count);
  }
  return most;
}

// scores [queries, keys] = x y^T over the chunk's keys, y being rows of K numbers.
void scores_against(const Chunk& chunk, Matrix x, Matrix y, std::int64_t head_size, float* scores) {
  std::int64_t column = 0;
  for (const Range& range : chunk.keys) {
    multiply(chunk.queries.size(), range.size(), head_size, x, Transposed::kNo,
             {y.first + range.begin * y.stride, y.stride}, Transposed::kYes, 0, scores + column,
             chunk.key_count);
    column += range.size();
  }
}

// out [queries, K] = weights [queries, keys] y.
void weighted_sum(const Chunk& chunk, const float* weights, Matrix y, std::int64_t head_size,
                  float* out, std::int64_t out_stride) {
  std::int64_t column = 0;
  for (const Range& range : chunk.keys) {
    multiply(chunk.queries.size(), head_size, range.size(), {weights + column, chunk.key_count},
             Transposed::kNo, {y.first + range.begin * y.stride, y.stride}, Transposed::kNo,
             column == 0 ? 0.0F : 1.0F, out, out_stride);
    column += range.size();
  }
}

// out [keys, K] += weights^T x.
void add_transposed(const Chunk& chunk, const float* weights, Matrix x, std::int64_t head_size,
                    float* out) {
  std::int64_t column = 0;
  for (const Range& range : chunk.keys) {
    multiply(range.size(), head_size, chunk.queries.size(), {weights + column, chunk.key_count},
             Transposed::kYes, x, Transposed::kNo, 1, out + range.begin * head_size, head_size);
    column += range.size();
  }
}

// [heads, n, K] <- `heads` heads side by side in the columns of n rows, rotated.
at::Tensor rotate_heads(Columns x, std::int64_t heads, std::int64_t head_size, const QuerySet& rows,
                        float factor) {
  const std::int64_t count = rows.cos.size(0);
  const at::Tensor out = at::empty({heads, count, head_size}, rows.cos.options());
  float* to = out.mutable_data_ptr<float>();
  at::parallel_for(0, heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t head = begin; head < end; ++head) {
      kernels::rotate(x.first + head * head_size, x.stride, rows.cos.const_data_ptr<float>(),
                      rows.sin.const_data_ptr<float>(), 1, factor, count, head_size,
                      to + head * count * head_size, head_size);
    }
  });
  return out;
}

// Gradients of keys and values per query head, [H, T, K] each; of queries into d_queries [H, n, K].
struct HeadGradients {
  at::Tensor queries;
  at::Tensor keys;
  at::Tensor values;
};

HeadGradients gradients_by_head(const AttentionMemory& memory, Columns kv,
                                const at::Tensor& d_result, const AttentionHeads& heads,
                                const QuerySet& queries) {
  const std::int64_t size = heads.head_size;
  const std::int64_t asked = memory.queries.size(1);
  const std::int64_t rows = memory.keys.size(1);
  const HeadGradients gradients{
      at::empty_like(memory.queries),
      at::zeros({heads.query_heads(), rows, size}, memory.keys.options()),
      at::zeros({heads.query_heads(), rows, size}, memory.keys.options())};
  const std::vector<Chunk> chunks = make_chunks(queries.spans);
  const std::int64_t most = most_scores(chunks);
  const float* all_values = kv.first + heads.kv_heads * size;
  const Matrix upstream{d_result.const_data_ptr<float>(), d_result.size(1)};
  at::parallel_for(0, heads.query_heads(), 1, [&](std::int64_t begin, std::int64_t end) {
    const at::Tensor scratch = at::empty({2, most}, d_result.options());
    float* weights = scratch.mutable_data_ptr<float>();
    float* slopes = weights + most;
    for (std::int64_t head = begin; head < end; ++head) {
      const std::int64_t kv_head = heads.kv_head_of_query[static_cast<std::size_t>(head)];
      const Matrix keys{memory.keys.const_data_ptr<float>() + kv_head * rows * size, size};
      const Matrix values{all_values + kv_head * size, kv.stride};
      float* d_keys = gradients.keys.mutable_data_ptr<float>() + head * rows * size;
      float* d_values = gradients.values.mutable_data_ptr<float>() + head * rows * size;
      for (const Chunk& chunk : chunks) {
        const std::int64_t first = head * asked + chunk.queries.begin;
        const Matrix q{memory.queries.const_data_ptr<float>() + first * size, size};
        const Matrix d_out{upstream.first + chunk.queries.begin * upstream.stride + head * size,
                           upstream.stride};
        scores_against(chunk, q, keys, size, weights);
        kernels::probabilities_again(weights, chunk.queries.size(), chunk.key_count,
                                     chunk.first_visible,
                                     memory.log_sums.const_data_ptr<float>() + first);
        add_transposed(chunk, weights, d_out, size, d_values);
        scores_against(chunk, d_out, values, size, slopes);
        kernels::softmax_backward_rows(weights, chunk.queries.size(), chunk.key_count, slopes);
        weighted_sum(chunk, slopes, keys, size,
                     gradients.queries.mutable_data_ptr<float>() + first * size, size);
        add_transposed(chunk, slopes, q, size, d_keys);
      }
    }
  });
  return gradients;
}

float score_factor(const AttentionHeads& heads) {
  return 1 / std::sqrt(static_cast<float>(heads.head_size));
}

}  // namespace

AttentionMemory attend(Columns q, Columns kv, const AttentionHeads& heads, const QuerySet& queries,
                       const QuerySet& keys) {
  const std::int64_t size = heads.head_size;
  const std::int64_t asked = queries.cos.size(0);
  const std::int64_t rows = keys.cos.size(0);
  AttentionMemory memory;
  memory.queries = rotate_heads(q, heads.query_heads(), size, queries, score_factor(heads));
  memory.keys = rotate_heads(kv, heads.kv_heads, size, keys, 1);
  memory.result = at::empty({asked, heads.query_heads() * size}, queries.cos.options());
  memory.log_sums = at::empty({heads.query_heads(), asked}, queries.cos.options());
  const std::vector<Chunk> chunks = make_chunks(queries.spans);
  const std::int64_t most = most_scores(chunks);
  const float* all_values = kv.first + heads.kv_heads * size;
  const auto count = static_cast<std::int64_t>(chunks.size());
  at::parallel_for(0, heads.query_heads() * count, 1, [&](std::int64_t begin, std::int64_t end) {
    const at::Tensor scratch = at::empty({most}, queries.cos.options());
    float* weights = scratch.mutable_data_ptr<float>();
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t head = task / count;
      const Chunk& chunk = chunks[static_cast<std::size_t>(task % count)];
      const std::int64_t kv_head = heads.kv_head_of_query[static_cast<std::size_t>(head)];
      const std::int64_t first = head * asked + chunk.queries.begin;
      scores_against(chunk, {memory.queries.const_data_ptr<float>() + first * size, size},
                     {memory.keys.const_data_ptr<float>() + kv_head * rows * size, size}, size,
                     weights);
      kernels::softmax_rows(weights, chunk.queries.size(), chunk.key_count, chunk.first_visible,
                            memory.log_sums.mutable_data_ptr<float>() + first);
      weighted_sum(chunk, weights, {all_values + kv_head * size, kv.stride}, size,
                   memory.result.mutable_data_ptr<float>() +
                       chunk.queries.begin * memory.result.size(1) + head * size,
                   memory.result.size(1));
    }
  });
  return memory;
}

void attend_backward(const AttentionMemory& memory, Columns kv, const at::Tensor& d_result,
                     const AttentionHeads& heads, const QuerySet& queries, const QuerySet& keys,
                     Columns d_q, Columns d_kv) {
  const std::int64_t size = heads.head_size;
  const std::int64_t asked = memory.queries.size(1);
  const std::int64_t rows = memory.keys.size(1);
  const HeadGradients gradients = gradients_by_head(memory, kv, d_result, heads, queries);
  at::parallel_for(0, heads.query_heads(), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t head = begin; head < end; ++head) {
      kernels::rotate(gradients.queries.const_data_ptr<float>() + head * asked * size, size,
                      queries.cos.const_data_ptr<float>(), queries.sin.const_data_ptr<float>(), -1,
                      score_factor(heads), asked, size, d_q.first + head * size, d_q.stride);
    }
  });
  float* d_values = d_kv.first + heads.kv_heads * size;
  for (std::int64_t kv_head = 0; kv_head < heads.kv_heads; ++kv_head) {
    const auto begin =
        std::lower_bound(heads.kv_head_of_query.begin(), heads.kv_head_of_query.end(), kv_head);
    const auto end = std::upper_bound(begin, heads.kv_head_of_query.end(), kv_head);
    const std::int64_t first = begin - heads.kv_head_of_query.begin();
    const at::Tensor d_keys = gradients.keys.narrow(0, first, end - begin).sum(0);
    at::parallel_for(0, rows, kQueryChunk, [&](std::int64_t from, std::int64_t to) {
      const std::int64_t half = size / 2;
      kernels::rotate(d_keys.const_data_ptr<float>() + from * size, size,
                      keys.cos.const_data_ptr<float>() + from * half,
                      keys.sin.const_data_ptr<float>() + from * half, -1, 1, to - from, size,
                      d_kv.first + from * d_kv.stride + kv_head * size, d_kv.stride);
    });
    const at::Tensor target = at::from_blob(d_values + kv_head * size, {rows, size},
                                            {d_kv.stride, 1}, d_result.options());
    target.copy_(gradients.values.narrow(0, first, end - begin).sum(0));
  }
}

}  // namespace bipo
