#include "trainer/model/operators/cpu_attention.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>
#include <vector>

#include "trainer/model/operators/cpu_kernels.hpp"
#include "trainer/model/operators/small_products.hpp"
#include "trainer/model/operators/task_queue.hpp"

namespace bipo {
namespace {

// Tokens whose queries are computed together: enough for efficient products, few enough that their
// scores stay in a core's cache and that few of them are hidden by causality.
constexpr std::int64_t kQueryChunk = 48;

using Matrix = kernels::ConstColumns;
using small::multiply;

// Queries of one span that are computed together, and the keys that any of them sees.
struct Chunk {
  Range queries;
  std::vector<Range> keys;  // in the order of the score columns
  std::int64_t key_count = 0;
  kernels::Visible visible;  // of the score columns
};

// Drops the first `count` rows of `ranges`.
std::vector<Range> without_first(const std::vector<Range>& ranges, std::int64_t count) {
  std::vector<Range> rest;
  for (const Range& range : ranges) {
    const std::int64_t dropped = std::min(count, range.size());
    count -= dropped;
    if (dropped < range.size()) {
      rest.push_back({range.begin + dropped, range.end});
    }
  }
  return rest;
}

// The queries [begin, end) of `span`.
Chunk make_chunk(const QuerySpan& span, std::int64_t begin, std::int64_t end) {
  Chunk chunk;
  chunk.queries = {span.queries.begin + begin, span.queries.begin + end};
  chunk.keys = span.context;
  chunk.keys.push_back({span.own.begin, span.own.begin + span.visible + end - 1});
  chunk.visible = {context_size(span) + span.visible + begin, span.window};
  if (span.window > 0) {
    const std::int64_t unseen = std::max<std::int64_t>(0, chunk.visible.first - span.window);
    chunk.keys = without_first(chunk.keys, unseen);
    chunk.visible.first -= unseen;
  }
  chunk.key_count = chunk.visible.first + (end - begin) - 1;
  return chunk;
}

std::vector<Chunk> make_chunks(const std::vector<QuerySpan>& spans) {
  std::vector<Chunk> chunks;
  for (const QuerySpan& span : spans) {
    for (std::int64_t begin = 0; begin < span.queries.size(); begin += kQueryChunk) {
      chunks.push_back(make_chunk(span, begin, std::min(begin + kQueryChunk, span.queries.size())));
    }
  }
  return chunks;
}

// Below, `rows` counts the chunk's queries of all heads that share a key/value head, head after
// head.

Matrix rows_from(Matrix matrix, std::int64_t row) {
  return {matrix.first + row * matrix.stride, matrix.stride};
}

// scores [rows, keys] = x y^T over the chunk's keys; y has rows of K numbers.
void scores_against(const Chunk& chunk, std::int64_t rows, Matrix x, Matrix y,
                    std::int64_t head_size, float* scores) {
  std::int64_t column = 0;
  for (const Range& range : chunk.keys) {
    multiply(rows, range.size(), head_size, {x}, {rows_from(y, range.begin), true}, 0,
             {scores + column, chunk.key_count});
    column += range.size();
  }
}

// The same for keys in strips.
void scores_against_strips(const Chunk& chunk, std::int64_t rows, Matrix x, const float* strips,
                           std::int64_t head_size, float* scores) {
  std::int64_t column = 0;
  for (const Range& range : chunk.keys) {
    tiles::multiply_by_strips(rows, range.size(), head_size, {x.first, x.stride, 1}, strips,
                              range.begin, scores + column, chunk.key_count);
    column += range.size();
  }
}

// out [rows, K] = weights [rows, keys] y.
void weighted_sum(const Chunk& chunk, std::int64_t rows, const float* weights, Matrix y,
                  std::int64_t head_size, float* out) {
  std::int64_t column = 0;
  for (const Range& range : chunk.keys) {
    multiply(rows, head_size, range.size(), {{weights + column, chunk.key_count}},
             {rows_from(y, range.begin)}, column == 0 ? 0.0F : 1.0F, {out, head_size});
    column += range.size();
  }
}

// out [keys, K] += weights^T x.
void add_transposed(const Chunk& chunk, std::int64_t rows, const float* weights, Matrix x,
                    std::int64_t head_size, float* out) {
  std::int64_t column = 0;
  for (const Range& range : chunk.keys) {
    multiply(range.size(), head_size, rows, {{weights + column, chunk.key_count}, true}, {x}, 1,
             {out + range.begin * head_size, head_size});
    column += range.size();
  }
}

// The query heads that share a key/value head.
class HeadGroup {
 public:
  HeadGroup(const AttentionHeads& heads, std::int64_t kv_head)
      : size_(heads.head_size), factor_(static_cast<float>(heads.scale)) {
    const auto& of_query = heads.kv_head_of_query;
    const auto [begin, end] = std::equal_range(of_query.begin(), of_query.end(), kv_head);
    first_ = begin - of_query.begin();
    count_ = end - begin;
  }

  std::int64_t rows(const Chunk& chunk) const { return count_ * chunk.queries.size(); }

  // Returns the first of the chunk's rows among the H n rows of all groups and chunks.
  std::int64_t first_row(const Chunk& chunk, std::int64_t queries) const {
    return first_ * queries + chunk.queries.begin * count_;
  }

  // Writes the heads' columns of x, rotated and scaled, to rows [rows, K].
  void rotate_in(const Chunk& chunk, Columns x, const QuerySet& queries, float* rows) const {
    for_each_head(chunk, [&](std::int64_t head, std::int64_t row) {
      kernels::rotate({at(x, chunk, head), x.stride}, rotation(queries, chunk, 1),
                      chunk.queries.size(), size_, {rows + row * size_, size_});
    });
  }

  // The reverse: writes `rows`, rotated back and scaled, to x.
  void rotate_out(const Chunk& chunk, const float* rows, const QuerySet& queries, Columns x) const {
    for_each_head(chunk, [&](std::int64_t head, std::int64_t row) {
      kernels::rotate({rows + row * size_, size_}, rotation(queries, chunk, -1),
                      chunk.queries.size(), size_, {at(x, chunk, head), x.stride});
    });
  }

  void copy_in(const Chunk& chunk, Columns x, float* rows) const {
    for_each_head(chunk, [&](std::int64_t head, std::int64_t row) {
      for (std::int64_t i = 0; i < chunk.queries.size(); ++i) {
        std::copy_n(at(x, chunk, head) + i * x.stride, size_, rows + (row + i) * size_);
      }
    });
  }

  void copy_out(const Chunk& chunk, const float* rows, Columns x) const {
    for_each_head(chunk, [&](std::int64_t head, std::int64_t row) {
      for (std::int64_t i = 0; i < chunk.queries.size(); ++i) {
        std::copy_n(rows + (row + i) * size_, size_, at(x, chunk, head) + i * x.stride);
      }
    });
  }

  // Calls work(head, first of its rows among the chunk's).
  template <class Work>
  void for_each_head(const Chunk& chunk, const Work& work) const {
    for (std::int64_t i = 0; i < count_; ++i) {
      work(first_ + i, i * chunk.queries.size());
    }
  }

 private:
  float* at(Columns x, const Chunk& chunk, std::int64_t head) const {
    return x.first + chunk.queries.begin * x.stride + head * size_;
  }
  kernels::Rotation rotation(const QuerySet& queries, const Chunk& chunk, float turn) const {
    const std::int64_t first = chunk.queries.begin * size_ / 2;
    return {queries.cos.const_data_ptr<float>() + first,
            queries.sin.const_data_ptr<float>() + first, turn, factor_};
  }

  std::int64_t size_;
  float factor_;
  std::int64_t first_ = 0;
  std::int64_t count_ = 0;
};

std::vector<HeadGroup> group_heads(const AttentionHeads& heads) {
  std::vector<HeadGroup> groups;
  for (std::int64_t kv_head = 0; kv_head < heads.kv_heads; ++kv_head) {
    groups.emplace_back(heads, kv_head);
  }
  return groups;
}

// The largest numbers of elements in the scores, and in the rows, of one chunk and group.
struct Most {
  Most(const std::vector<Chunk>& chunks, const std::vector<HeadGroup>& groups, std::int64_t size) {
    for (const Chunk& chunk : chunks) {
      for (const HeadGroup& group : groups) {
        scores = std::max(scores, group.rows(chunk) * chunk.key_count);
        rows = std::max(rows, group.rows(chunk) * size);
      }
    }
  }
  std::int64_t scores = 0;
  std::int64_t rows = 0;
};

// The rotation of the rows from `first` on, or back.
kernels::Rotation rotation_of(const QuerySet& rows, std::int64_t first, std::int64_t head_size,
                              float turn) {
  const std::int64_t at = first * head_size / 2;
  return {rows.cos.const_data_ptr<float>() + at, rows.sin.const_data_ptr<float>() + at, turn, 1};
}

// Calls work(head, range of its rows) for `heads` heads of `rows` rows.
template <class Work>
void share_head_rows(std::int64_t heads, std::int64_t rows, const Work& work) {
  constexpr std::int64_t kRows = 64;
  const std::int64_t parts = (rows + kRows - 1) / kRows;
  share_tasks(heads * parts, [&](TaskQueue& queue) {
    while (const auto task = queue.next()) {
      const std::int64_t first = *task % parts * kRows;
      work(*task / parts, Range{first, std::min(rows, first + kRows)});
    }
  });
}

// Returns the keys' columns, rotated: [Hkv, T, K].
at::Tensor rotate_keys(Columns keys, const AttentionHeads& heads, const QuerySet& rows) {
  const std::int64_t count = rows.cos.size(0);
  const std::int64_t size = heads.head_size;
  const at::Tensor out = at::empty({heads.kv_heads, count, size}, rows.cos.options());
  float* to = out.mutable_data_ptr<float>();
  share_head_rows(heads.kv_heads, count, [&](std::int64_t head, Range part) {
    kernels::rotate({keys.first + part.begin * keys.stride + head * size, keys.stride},
                    rotation_of(rows, part.begin, size, 1), part.size(), size,
                    {to + (head * count + part.begin) * size, size});
  });
  return out;
}

void write_key_gradients(const at::Tensor& d_keys, const at::Tensor& d_values,
                         const AttentionHeads& heads, const QuerySet& rows, Columns d_kv) {
  const std::int64_t count = rows.cos.size(0);
  const std::int64_t size = heads.head_size;
  share_head_rows(heads.kv_heads, count, [&](std::int64_t head, Range part) {
    const std::int64_t first = (head * count + part.begin) * size;
    float* d_key = d_kv.first + part.begin * d_kv.stride + head * size;
    kernels::rotate({d_keys.const_data_ptr<float>() + first, size},
                    rotation_of(rows, part.begin, size, -1), part.size(), size,
                    {d_key, d_kv.stride});
    const float* from = d_values.const_data_ptr<float>() + first;
    float* d_value = d_key + heads.kv_heads * size;
    for (std::int64_t row = 0; row < part.size(); ++row) {
      std::copy_n(from + row * size, size, d_value + row * d_kv.stride);
    }
  });
}

// Returns the chunks in groups that share no keys: the gradients of a group's keys are its own, so
// that threads need no copies of them whose sum would depend on the number of threads.
std::vector<std::vector<Chunk>> without_shared_keys(std::vector<Chunk> chunks, std::int64_t keys) {
  std::vector<std::int64_t> group_of_key(static_cast<std::size_t>(keys), -1);
  std::vector<std::vector<Chunk>> groups;
  for (Chunk& chunk : chunks) {
    auto group = static_cast<std::int64_t>(groups.size());
    groups.emplace_back();
    const auto for_each_key = [&](const auto& work) {
      for (const Range& range : chunk.keys) {
        std::for_each(group_of_key.begin() + range.begin, group_of_key.begin() + range.end, work);
      }
    };
    for_each_key([&](std::int64_t other) {
      if (other < 0 || other == group) {
        return;
      }
      const std::int64_t to = std::min(group, other);
      const std::int64_t from = std::max(group, other);
      auto& joined = groups[static_cast<std::size_t>(to)];
      auto& left = groups[static_cast<std::size_t>(from)];
      joined.insert(joined.end(), std::make_move_iterator(left.begin()),
                    std::make_move_iterator(left.end()));
      left.clear();
      std::replace(group_of_key.begin(), group_of_key.end(), from, to);
      group = to;
    });
    for_each_key([&](std::int64_t& of_key) { of_key = group; });
    groups[static_cast<std::size_t>(group)].push_back(std::move(chunk));
  }
  std::erase_if(groups, [](const std::vector<Chunk>& group) { return group.empty(); });
  return groups;
}

// Rows of K numbers for each key/value head.
struct HeadRows {
  const float* first;
  std::int64_t head_stride;
  std::int64_t row_stride;  // 0: the rows are in strips, see KeptRows

  Matrix of(std::int64_t kv_head) const { return {first + kv_head * head_stride, row_stride}; }
  bool are_in_strips() const { return row_stride == 0; }
};

// Allocates all but the keys.
AttentionMemory memory_for(const QuerySet& queries, const AttentionHeads& heads) {
  const std::int64_t count = queries.cos.size(0);
  const auto options = queries.cos.options();
  return {at::empty({count, heads.query_heads() * heads.head_size}, options),
          at::empty({heads.query_heads() * count, heads.head_size}, options), at::Tensor(),
          at::empty({heads.query_heads() * count}, options)};
}

// Fills `memory`'s result, queries and log_sums.
void attend_to(Columns q, HeadRows keys, HeadRows values, const AttentionHeads& heads,
               const QuerySet& queries, const AttentionMemory& memory) {
  const std::int64_t size = heads.head_size;
  const auto cap = static_cast<float>(heads.soft_cap);
  const std::vector<Chunk> chunks = make_chunks(queries.spans);
  const std::vector<HeadGroup> groups = group_heads(heads);
  const Most most(chunks, groups, size);
  const auto count = static_cast<std::int64_t>(chunks.size());
  share_tasks(heads.kv_heads * count, [&](TaskQueue& queue) {
    const at::Tensor scratch = at::empty({most.scores + most.rows}, queries.cos.options());
    float* weights = scratch.mutable_data_ptr<float>();
    float* sums = weights + most.scores;
    while (const auto task = queue.next()) {
      const std::int64_t kv_head = *task / count;
      const Chunk& chunk = chunks[static_cast<std::size_t>(*task % count)];
      const HeadGroup& group = groups[static_cast<std::size_t>(kv_head)];
      const std::int64_t rows = group.rows(chunk);
      const std::int64_t first = group.first_row(chunk, queries.cos.size(0));
      float* rotated = memory.queries.mutable_data_ptr<float>() + first * size;
      group.rotate_in(chunk, q, queries, rotated);
      const Matrix of_head = keys.of(kv_head);
      if (keys.are_in_strips()) {
        scores_against_strips(chunk, rows, {rotated, size}, of_head.first, size, weights);
      } else {
        scores_against(chunk, rows, {rotated, size}, of_head, size, weights);
      }
      if (cap != 0) {
        kernels::soft_cap(weights, rows * chunk.key_count, cap);
      }
      group.for_each_head(chunk, [&](std::int64_t, std::int64_t row) {
        kernels::softmax_rows(weights + row * chunk.key_count, chunk.queries.size(),
                              chunk.key_count, chunk.visible,
                              memory.log_sums.mutable_data_ptr<float>() + first + row);
      });
      weighted_sum(chunk, rows, weights, values.of(kv_head), size, sums);
      group.copy_out(chunk, sums, {memory.result.mutable_data_ptr<float>(), memory.result.size(1)});
    }
  });
}

// One thread's memory in the backward pass, for one chunk and group at a time.
struct BackwardScratch {
  BackwardScratch(const Most& most, bool is_capped, const at::TensorOptions& options)
      : memory(at::empty({(is_capped ? 3 : 2) * most.scores + 2 * most.rows}, options)),
        d_out(memory.mutable_data_ptr<float>()),
        d_rotated(d_out + most.rows),
        weights(d_rotated + most.rows),
        slopes(weights + most.scores),
        cap_slopes(slopes + most.scores) {}

  at::Tensor memory;
  float* d_out;
  float* d_rotated;
  float* weights;
  float* slopes;
  float* cap_slopes;  // only where scores are capped
};

// Keys (rotated) and values [T, K] of one key/value head, and where the gradients go.
struct HeadOperands {
  Matrix keys;
  Matrix values;
  float* d_keys;  // adds up, as d_values does
  float* d_values;
  Columns d_q;
};

// The backward pass through the queries of one chunk and group: adds to d_keys and d_values, writes
// their part of d_q.
void attend_backward_in_chunk(const Chunk& chunk, const HeadGroup& group,
                              const AttentionMemory& memory, const at::Tensor& d_result,
                              const AttentionCall& call, const HeadOperands& to,
                              const BackwardScratch& scratch) {
  const std::int64_t size = call.heads.head_size;
  const auto cap = static_cast<float>(call.heads.soft_cap);
  const std::int64_t rows = group.rows(chunk);
  const std::int64_t first = group.first_row(chunk, call.queries.cos.size(0));
  const Matrix rotated{memory.queries.const_data_ptr<float>() + first * size, size};
  scores_against(chunk, rows, rotated, to.keys, size, scratch.weights);
  if (cap != 0) {
    kernels::soft_cap(scratch.weights, rows * chunk.key_count, cap);
    kernels::soft_cap_slopes(scratch.weights, rows * chunk.key_count, cap, scratch.cap_slopes);
  }
  group.for_each_head(chunk, [&](std::int64_t, std::int64_t row) {
    kernels::probabilities_again(scratch.weights + row * chunk.key_count, chunk.queries.size(),
                                 chunk.key_count, chunk.visible,
                                 memory.log_sums.const_data_ptr<float>() + first + row);
  });
  group.copy_in(chunk, {d_result.mutable_data_ptr<float>(), d_result.size(1)}, scratch.d_out);
  add_transposed(chunk, rows, scratch.weights, {scratch.d_out, size}, size, to.d_values);
  scores_against(chunk, rows, {scratch.d_out, size}, to.values, size, scratch.slopes);
  kernels::softmax_backward_rows(scratch.weights, rows, chunk.key_count, scratch.slopes);
  if (cap != 0) {
    kernels::multiply(scratch.slopes, scratch.cap_slopes, rows * chunk.key_count);
  }
  weighted_sum(chunk, rows, scratch.slopes, to.keys, size, scratch.d_rotated);
  group.rotate_out(chunk, scratch.d_rotated, call.queries, to.d_q);
  add_transposed(chunk, rows, scratch.slopes, rotated, size, to.d_keys);
}

}  // namespace

AttentionMemory attend(Columns q, Columns kv, const AttentionCall& call) {
  const AttentionHeads& heads = call.heads;
  const std::int64_t size = heads.head_size;
  AttentionMemory memory = memory_for(call.queries, heads);
  memory.keys = rotate_keys(kv, heads, call.keys);
  attend_to(q, {memory.keys.const_data_ptr<float>(), memory.keys.stride(0), size},
            {kv.first + heads.kv_heads * size, size, kv.stride}, heads, call.queries, memory);
  return memory;
}

at::Tensor make_key_strips(const AttentionHeads& heads, std::int64_t rows,
                           const at::TensorOptions& options) {
  return at::empty(
      {heads.kv_heads, tiles::whole_strips(rows) / tiles::kStrip, heads.head_size, tiles::kStrip},
      options);
}

void keep_rows(Columns kv, const AttentionHeads& heads, const QuerySet& rows,
               const std::int64_t* places, const KeptRows& kept) {
  const std::int64_t size = heads.head_size;
  const float* cos = rows.cos.const_data_ptr<float>();
  const float* sin = rows.sin.const_data_ptr<float>();
  const bool in_strips = kept.keys.dim() == 4;
  share_head_rows(heads.kv_heads, rows.cos.size(0), [&](std::int64_t head, Range part) {
    float* keys = kept.keys.mutable_data_ptr<float>() + head * kept.keys.stride(0);
    float* values = kept.values.mutable_data_ptr<float>() + head * kept.values.stride(0);
    std::vector<float> rotated(static_cast<std::size_t>(size));
    for (std::int64_t row = part.begin; row < part.end; ++row) {
      const float* key = kv.first + row * kv.stride + head * size;
      float* const to = in_strips ? rotated.data() : keys + places[row] * size;
      kernels::rotate({key, kv.stride}, {cos + row * size / 2, sin + row * size / 2, 1, 1}, 1, size,
                      {to, size});
      if (in_strips) {
        float* const column =
            keys + places[row] / tiles::kStrip * size * tiles::kStrip + places[row] % tiles::kStrip;
        for (std::int64_t i = 0; i < size; ++i) {
          column[i * tiles::kStrip] = rotated[static_cast<std::size_t>(i)];
        }
      }
      std::copy_n(key + heads.kv_heads * size, size, values + places[row] * size);
    }
  });
}

at::Tensor attend_to_kept(Columns q, const AttentionHeads& heads, const QuerySet& queries,
                          const KeptRows& kept) {
  AttentionMemory memory = memory_for(queries, heads);
  const auto by_kv_head = [&](const at::Tensor& rows) {
    return HeadRows{rows.const_data_ptr<float>(), rows.stride(0),
                    rows.dim() == 4 ? 0 : heads.head_size};
  };
  attend_to(q, by_kv_head(kept.keys), by_kv_head(kept.values), heads, queries, memory);
  return memory.result;
}

void attend_backward(const AttentionMemory& memory, Columns kv, const at::Tensor& d_result,
                     const AttentionCall& call, AttentionGradients gradients) {
  const AttentionHeads& heads = call.heads;
  const std::int64_t size = heads.head_size;
  const std::int64_t key_rows = call.keys.cos.size(0);
  std::vector<Chunk> chunks = make_chunks(call.queries.spans);
  const std::vector<HeadGroup> head_groups = group_heads(heads);
  const Most most(chunks, head_groups, size);
  const std::vector<std::vector<Chunk>> groups = without_shared_keys(std::move(chunks), key_rows);
  const auto count = static_cast<std::int64_t>(groups.size());
  const at::Tensor d_keys = at::zeros({heads.kv_heads, key_rows, size}, d_result.options());
  const at::Tensor d_values = at::zeros_like(d_keys);
  share_tasks(heads.kv_heads * count, [&](TaskQueue& queue) {
    const BackwardScratch scratch(most, heads.soft_cap != 0, d_result.options());
    while (const auto task = queue.next()) {
      const std::int64_t kv_head = *task / count;
      const std::int64_t offset = kv_head * key_rows * size;
      const HeadOperands to{{memory.keys.const_data_ptr<float>() + offset, size},
                            {kv.first + (heads.kv_heads + kv_head) * size, kv.stride},
                            d_keys.mutable_data_ptr<float>() + offset,
                            d_values.mutable_data_ptr<float>() + offset,
                            gradients.q};
      for (const Chunk& chunk : groups[static_cast<std::size_t>(*task % count)]) {
        attend_backward_in_chunk(chunk, head_groups[static_cast<std::size_t>(kv_head)], memory,
                                 d_result, call, to, scratch);
      }
    }
  });
  write_key_gradients(d_keys, d_values, heads, call.keys, gradients.kv);
}

}  // namespace bipo
