#include "trainer/model/recurrence/cpu_delta_rule.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "trainer/model/architecture/config.hpp"
#include "trainer/model/operators/small_products.hpp"
#include "trainer/model/operators/task_queue.hpp"
#include "trainer/model/recurrence/delta_kernels.hpp"

namespace bipo {
namespace {

// The columns that a thread convolves at a time.
constexpr std::int64_t kConvolvedColumns = 512;

// Rows of a triangular system that are solved by substitution; those before them by a product.
constexpr std::int64_t kSolvedRows = 16;

using kernels::Columns;
using kernels::ConstColumns;

Columns dense(float* first, std::int64_t columns) {
  return {first, columns};
}

ConstColumns constant(Columns x) {
  return {x.first, x.stride};
}

// c += a b, or c = a b.
void product(std::int64_t m, std::int64_t n, std::int64_t k, ConstColumns a, ConstColumns b,
             bool adds, Columns c) {
  small::multiply(m, n, k, {a}, {b}, adds ? 1.0F : 0.0F, c);
}

// The same with a^T, a [k, m].
void product_of_transposed(std::int64_t m, std::int64_t n, std::int64_t k, ConstColumns a,
                           ConstColumns b, bool adds, Columns c) {
  small::multiply(m, n, k, {a, true}, {b}, adds ? 1.0F : 0.0F, c);
}

// The same with b^T, b [n, k].
void product_by_transposed(std::int64_t m, std::int64_t n, std::int64_t k, ConstColumns a,
                           ConstColumns b, bool adds, Columns c) {
  small::multiply(m, n, k, {a}, {b, true}, adds ? 1.0F : 0.0F, c);
}

// The value heads of one key head, and where the columns of each are in rows of the operands.
struct DeltaGroup {
  DeltaGroup(const DeltaHeads& heads, std::int64_t key_head)
      : query_column(key_head * heads.key_size),
        key_column(heads.key_columns() + query_column),
        factor(1 / std::sqrt(static_cast<float>(heads.key_size))) {
    const auto& of_value = heads.key_head_of_value;
    const auto [begin, end] = std::equal_range(of_value.begin(), of_value.end(), key_head);
    values = {begin - of_value.begin(), end - of_value.begin()};
  }

  std::int64_t query_column;
  std::int64_t key_column;
  float factor;  // of queries
  Range values;
};

// One thread's memory for one chunk of c rows at most.
class ChunkScratch {
 public:
  ChunkScratch(std::int64_t rows, const DeltaHeads& heads) : sums(static_cast<std::size_t>(rows)) {
    const std::int64_t squares = 9 * rows * rows;
    const std::int64_t of_keys = 6 * rows * heads.key_size;
    const std::int64_t of_values = 3 * rows * heads.value_size;
    memory_ = at::empty({squares + of_keys + of_values + 10 * rows}, at::kFloat);
    float* next = memory_.mutable_data_ptr<float>();
    const auto take = [&](std::int64_t count) {
      next += count;
      return next - count;
    };
    for (float** square : {&key_products, &query_products, &decays, &reads, &lower, &d_reads,
                           &d_lower, &d_query_products, &d_key_products}) {
      *square = take(rows * rows);
    }
    for (float** matrix : {&queries, &keys, &d_queries, &d_keys, &of_key, &more_of_key}) {
      *matrix = take(rows * heads.key_size);
    }
    for (float** matrix : {&d_value, &scaled, &d_correction}) {
      *matrix = take(rows * heads.value_size);
    }
    for (float** vector : {&query_scales, &key_scales, &from_start, &to_end, &step, &factors, &dots,
                           &d_sums, &d_step, &more_dots}) {
      *vector = take(rows);
    }
  }

  float *key_products, *query_products, *decays, *reads, *lower;
  float *d_reads, *d_lower, *d_query_products, *d_key_products;
  float *queries, *keys, *d_queries, *d_keys, *of_key, *more_of_key;
  float *d_value, *scaled, *d_correction;
  float *query_scales, *key_scales, *from_start, *to_end, *step;
  float *factors, *dots, *d_sums, *d_step, *more_dots;
  std::vector<double> sums;  // of the decays up to each row

 private:
  at::Tensor memory_;
};

std::int64_t longest_chunk(const RecurrentLayout& layout) {
  std::int64_t longest = 1;
  for (const StateChunk& chunk : layout.chunks) {
    longest = std::max(longest, chunk.rows.size());
  }
  return longest;
}

// Solves (I + lower) x = x, or (I + lower^T) x = x, in place.
void solve(const float* lower, std::int64_t rows, std::int64_t size, Columns x, float* negative) {
  std::transform(lower, lower + rows * rows, negative, [](float value) { return -value; });
  for (std::int64_t first = 0; first < rows; first += kSolvedRows) {
    const std::int64_t count = std::min(kSolvedRows, rows - first);
    const Columns part{x.first + first * x.stride, x.stride};
    if (first > 0) {
      product(count, size, first, {negative + first * rows, rows}, constant(x), true, part);
    }
    kernels::solve_lower(lower + first * rows + first, count, rows, size, part);
  }
}

void solve_transposed(const float* lower, std::int64_t rows, std::int64_t size, Columns x,
                      float* negative) {
  std::transform(lower, lower + rows * rows, negative, [](float value) { return -value; });
  for (std::int64_t first = (rows - 1) / kSolvedRows * kSolvedRows; first >= 0;
       first -= kSolvedRows) {
    const std::int64_t count = std::min(kSolvedRows, rows - first);
    const std::int64_t after = first + count;
    const Columns part{x.first + first * x.stride, x.stride};
    if (after < rows) {
      product_of_transposed(count, size, rows - after, {negative + after * rows + first, rows},
                            {x.first + after * x.stride, x.stride}, true, part);
    }
    kernels::solve_lower_transposed(lower + first * rows + first, count, rows, size, part);
  }
}

// Tensors as pointers and distances, for one call.
struct DeltaView {
  DeltaView(const DeltaOperands& operands, const DeltaHeads& of_call)
      : heads(of_call),
        mixed{operands.mixed.mutable_data_ptr<float>(), operands.mixed.stride(0)},
        decays{operands.decays.mutable_data_ptr<float>(), operands.decays.stride(0)},
        steps{operands.steps.mutable_data_ptr<float>(), operands.steps.stride(0)} {}

  Columns at(std::int64_t row, std::int64_t column) const {
    return {mixed.first + row * mixed.stride + column, mixed.stride};
  }
  std::int64_t value_column(std::int64_t head) const {
    return 2 * heads.key_columns() + head * heads.value_size;
  }

  const DeltaHeads& heads;
  Columns mixed;
  Columns decays;
  Columns steps;
};

// Where the rows' results, corrections and states of one value head are.
struct DeltaHeadMemory {
  DeltaHeadMemory(const DeltaMemory& memory, const DeltaHeads& heads, std::int64_t head)
      : state_size(heads.key_size * heads.value_size),
        states(memory.states.mutable_data_ptr<float>() + head * memory.states.size(1) * state_size),
        corrections(memory.corrections.mutable_data_ptr<float>() +
                    head * memory.corrections.size(1) * heads.value_size) {}

  float* state(std::int64_t index) const {
    return index < 0 ? nullptr : states + index * state_size;
  }

  std::int64_t state_size;
  float* states;
  float* corrections;
};

// Queries and keys of the chunk's rows as vectors of length 1, and their products.
void prepare_keys(const DeltaView& view, const DeltaGroup& group, const StateChunk& chunk,
                  ChunkScratch& s) {
  const std::int64_t rows = chunk.rows.size();
  const std::int64_t size = view.heads.key_size;
  kernels::unit_rows(constant(view.at(chunk.rows.begin, group.query_column)), rows, size,
                     group.factor, dense(s.queries, size), s.query_scales);
  kernels::unit_rows(constant(view.at(chunk.rows.begin, group.key_column)), rows, size, 1,
                     dense(s.keys, size), s.key_scales);
  product_by_transposed(rows, rows, size, {s.keys, size}, {s.keys, size}, false,
                        dense(s.key_products, rows));
  product_by_transposed(rows, rows, size, {s.queries, size}, {s.keys, size}, false,
                        dense(s.query_products, rows));
}

// Decays between the chunk's rows, for one value head: `lower` holds what a row's correction takes
// of those before it, `reads` what its query finds of each.
void prepare_head(const DeltaView& view, const StateChunk& chunk, std::int64_t head,
                  ChunkScratch& s) {
  const std::int64_t rows = chunk.rows.size();
  double sum = 0;
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::int64_t row = chunk.rows.begin + i;
    sum += view.decays.first[row * view.decays.stride + head];
    s.sums[static_cast<std::size_t>(i)] = sum;
    s.step[i] = view.steps.first[row * view.steps.stride + head];
    s.from_start[i] = std::exp(static_cast<float>(sum));
  }
  for (std::int64_t i = 0; i < rows; ++i) {
    s.to_end[i] = std::exp(static_cast<float>(sum - s.sums[static_cast<std::size_t>(i)]));
  }
  kernels::pair_decays(s.sums.data(), rows, s.decays);
  kernels::products(s.query_products, s.decays, rows * rows, false, s.reads);
  kernels::strictly_lower(s.key_products, s.decays, s.step, rows, s.lower);
}

// The forward pass of one chunk and value head; `corrections` and `result` are those of its rows.
void run_chunk(const DeltaView& view, const StateChunk& chunk, std::int64_t head,
               const DeltaHeadMemory& memory, Columns result, ChunkScratch& s) {
  const std::int64_t rows = chunk.rows.size();
  const std::int64_t keys = view.heads.key_size;
  const std::int64_t values = view.heads.value_size;
  const float* before = memory.state(chunk.from);
  const Columns corrections = dense(memory.corrections + chunk.rows.begin * values, values);
  prepare_head(view, chunk, head, s);
  kernels::scale_rows(constant(view.at(chunk.rows.begin, view.value_column(head))), s.step, rows,
                      values, false, corrections);
  if (before != nullptr) {
    product(rows, values, keys, {s.keys, keys}, {before, values}, false, dense(s.scaled, values));
    for (std::int64_t i = 0; i < rows; ++i) {
      s.factors[i] = -s.step[i] * s.from_start[i];
    }
    kernels::scale_rows({s.scaled, values}, s.factors, rows, values, true, corrections);
  }
  solve(s.lower, rows, values, corrections, s.d_lower);
  product(rows, values, rows, {s.reads, rows}, constant(corrections), false, result);
  if (before != nullptr) {
    product(rows, values, keys, {s.queries, keys}, {before, values}, false,
            dense(s.scaled, values));
    kernels::scale_rows({s.scaled, values}, s.from_start, rows, values, true, result);
  }
  if (chunk.to >= 0) {
    float* after = memory.state(chunk.to);
    std::fill_n(after, memory.state_size, 0.0F);
    if (before != nullptr) {
      kernels::add_multiple(before, s.from_start[rows - 1], memory.state_size, after);
    }
    kernels::scale_rows(constant(corrections), s.to_end, rows, values, false,
                        dense(s.scaled, values));
    product_of_transposed(keys, values, rows, {s.keys, keys}, {s.scaled, values}, true,
                          dense(after, values));
  }
}

// Gradients of one value head, for the rows of one chunk.
struct DeltaHeadGradients {
  Columns value;  // [c, V] written
  float* decays;  // [c] with a distance between rows, written
  float* steps;   // likewise
  std::int64_t stride;
  float* before;       // [K, V] of the state at the chunk's start, added to; null: none
  const float* after;  // of the state at its end; null: none
};

// The backward pass of one chunk and value head.  Writes the head's own gradients; adds to the
// scratch's d_queries, d_keys, d_query_products and d_key_products.
void run_chunk_backward(const DeltaView& view, const StateChunk& chunk, std::int64_t head,
                        const DeltaHeadMemory& memory, ConstColumns d_result,
                        const DeltaHeadGradients& to, ChunkScratch& s) {
  const std::int64_t rows = chunk.rows.size();
  const std::int64_t keys = view.heads.key_size;
  const std::int64_t values = view.heads.value_size;
  const float* before = memory.state(chunk.from);
  const ConstColumns corrections{memory.corrections + chunk.rows.begin * values, values};
  prepare_head(view, chunk, head, s);
  std::fill_n(s.d_sums, rows, 0.0F);

  // The corrections' gradient, by what the rows read and by the state at the end.
  product_of_transposed(rows, values, rows, {s.reads, rows}, d_result, false,
                        dense(s.d_correction, values));
  product_by_transposed(rows, rows, values, d_result, corrections, false, dense(s.d_reads, rows));
  if (to.after != nullptr) {
    product(rows, values, keys, {s.keys, keys}, {to.after, values}, false, dense(s.scaled, values));
    kernels::scale_rows({s.scaled, values}, s.to_end, rows, values, true,
                        dense(s.d_correction, values));
    product_by_transposed(rows, keys, values, corrections, {to.after, values}, false,
                          dense(s.of_key, keys));
    kernels::row_products({s.keys, keys}, {s.of_key, keys}, rows, keys, s.dots);
    kernels::scale_rows({s.of_key, keys}, s.to_end, rows, keys, true, dense(s.d_keys, keys));
    for (std::int64_t i = 0; i < rows; ++i) {
      const float of_decay = s.to_end[i] * s.dots[i];
      s.d_sums[i] -= of_decay;
      s.d_sums[rows - 1] += of_decay;
    }
  }

  // Through the triangular system to the values, the keys and the state at the start.
  solve_transposed(s.lower, rows, values, dense(s.d_correction, values), s.d_lower);
  product_by_transposed(rows, rows, values, {s.d_correction, values}, corrections, false,
                        dense(s.d_lower, rows));
  std::fill_n(s.factors, rows, -1.0F);
  kernels::strictly_lower(s.d_lower, s.decays, s.factors, rows, s.d_lower);
  // d_lower is now d(step k k^T) with the decays in it.
  for (std::int64_t i = 0; i < rows; ++i) {
    s.d_step[i] = kernels::dot(s.d_lower + i * rows, s.key_products + i * rows, rows);
  }
  kernels::scale_rows({s.d_lower, rows}, s.step, rows, rows, false, dense(s.d_lower, rows));
  kernels::add_row_less_column_sums(s.d_lower, s.key_products, rows, s.d_sums);
  kernels::products(s.d_reads, s.decays, rows * rows, false, s.d_reads);
  kernels::add_row_less_column_sums(s.d_reads, s.query_products, rows, s.d_sums);
  kernels::add_multiple(s.d_lower, 1, rows * rows, s.d_key_products);
  kernels::add_multiple(s.d_reads, 1, rows * rows, s.d_query_products);

  const ConstColumns value = constant(view.at(chunk.rows.begin, view.value_column(head)));
  kernels::row_products({s.d_correction, values}, value, rows, values, s.dots);
  kernels::scale_rows({s.d_correction, values}, s.step, rows, values, false, to.value);
  for (std::int64_t i = 0; i < rows; ++i) {
    s.d_step[i] += s.dots[i];
  }
  if (before != nullptr) {
    // What the corrections took of the state, and what the queries read of it.
    kernels::scale_rows({s.d_correction, values}, s.from_start, rows, values, false,
                        dense(s.d_value, values));
    product_by_transposed(rows, keys, values, {s.d_value, values}, {before, values}, false,
                          dense(s.of_key, keys));
    kernels::row_products({s.keys, keys}, {s.of_key, keys}, rows, keys, s.dots);
    kernels::scale_rows(d_result, s.from_start, rows, values, false, dense(s.scaled, values));
    product_by_transposed(rows, keys, values, {s.scaled, values}, {before, values}, false,
                          dense(s.more_of_key, keys));
    kernels::row_products({s.queries, keys}, {s.more_of_key, keys}, rows, keys, s.more_dots);
    for (std::int64_t i = 0; i < rows; ++i) {
      s.factors[i] = -s.step[i];
      s.d_step[i] -= s.dots[i];
      s.d_sums[i] += s.more_dots[i] - s.step[i] * s.dots[i];
    }
    kernels::scale_rows({s.of_key, keys}, s.factors, rows, keys, true, dense(s.d_keys, keys));
    kernels::add_multiple(s.more_of_key, 1, rows * keys, s.d_queries);
    kernels::scale_rows({s.d_value, values}, s.factors, rows, values, false,
                        dense(s.d_value, values));
    product_of_transposed(keys, values, rows, {s.keys, keys}, {s.d_value, values}, true,
                          dense(to.before, values));
    product_of_transposed(keys, values, rows, {s.queries, keys}, {s.scaled, values}, true,
                          dense(to.before, values));
    if (to.after != nullptr) {
      const float decay = s.from_start[rows - 1];
      kernels::add_multiple(to.after, decay, memory.state_size, to.before);
      s.d_sums[rows - 1] += decay * kernels::dot(to.after, before, memory.state_size);
    }
  }
  float sum = 0;
  for (std::int64_t i = rows - 1; i >= 0; --i) {
    sum += s.d_sums[i];
    to.decays[i * to.stride] = sum;
    to.steps[i * to.stride] = s.d_step[i];
  }
}

// Takes the gradients that the value heads of a key head left in the scratch to queries and keys.
void finish_keys(const DeltaView& d_view, const DeltaGroup& group, const StateChunk& chunk,
                 ChunkScratch& s) {
  const std::int64_t rows = chunk.rows.size();
  const std::int64_t size = d_view.heads.key_size;
  product(rows, size, rows, {s.d_query_products, rows}, {s.keys, size}, true,
          dense(s.d_queries, size));
  product_of_transposed(rows, size, rows, {s.d_query_products, rows}, {s.queries, size}, true,
                        dense(s.d_keys, size));
  product(rows, size, rows, {s.d_key_products, rows}, {s.keys, size}, true, dense(s.d_keys, size));
  product_of_transposed(rows, size, rows, {s.d_key_products, rows}, {s.keys, size}, true,
                        dense(s.d_keys, size));
  kernels::unit_rows_backward({s.queries, size}, s.query_scales, group.factor, {s.d_queries, size},
                              rows, size, d_view.at(chunk.rows.begin, group.query_column));
  kernels::unit_rows_backward({s.keys, size}, s.key_scales, 1, {s.d_keys, size}, rows, size,
                              d_view.at(chunk.rows.begin, group.key_column));
}

// Calls work(key head, tree, scratch) for all key heads and trees.
template <class Work>
void for_each_group_and_tree(const DeltaHeads& heads, const RecurrentLayout& layout,
                             const Work& work) {
  const auto trees = static_cast<std::int64_t>(layout.trees.size());
  const std::int64_t rows = longest_chunk(layout);
  share_tasks(heads.key_heads * trees, [&](TaskQueue& queue) {
    ChunkScratch scratch(rows, heads);
    while (const auto task = queue.next()) {
      work(DeltaGroup(heads, *task / trees), layout.trees[static_cast<std::size_t>(*task % trees)],
           scratch);
    }
  });
}

// Calls work(output row, rows that its taps see, column range) for all rows, in order within a
// range of columns.
template <class Work>
void for_each_convolved(const TapRows& taps, std::int64_t columns, const Work& work) {
  const auto rows = static_cast<std::int64_t>(taps.rows.size()) / taps.taps;
  share_row_ranges(columns, kConvolvedColumns, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = 0; row < rows; ++row) {
      work(row, taps.rows.data() + row * taps.taps, Range{begin, end});
    }
  });
}

template <class Number>
std::array<Number*, kMostConvolutionTaps> tapped(Number* first, std::int64_t stride,
                                                 const std::int64_t* rows, std::int64_t taps) {
  std::array<Number*, kMostConvolutionTaps> result{};
  for (std::int64_t tap = 0; tap < taps; ++tap) {
    result[static_cast<std::size_t>(tap)] = rows[tap] < 0 ? nullptr : first + rows[tap] * stride;
  }
  return result;
}

}  // namespace

DeltaMemory run_delta_rule(const DeltaOperands& operands, const DeltaHeads& heads,
                           const RecurrentLayout& layout) {
  const auto options = operands.mixed.options();
  const std::int64_t rows = operands.mixed.size(0);
  DeltaMemory memory{
      at::empty({rows, heads.value_columns()}, options),
      at::empty({heads.value_heads(), rows, heads.value_size}, options),
      at::empty({heads.value_heads(), layout.states, heads.key_size, heads.value_size}, options)};
  const DeltaView view(operands, heads);
  for_each_group_and_tree(
      heads, layout, [&](const DeltaGroup& group, Range tree, ChunkScratch& scratch) {
        for (std::int64_t c = tree.begin; c < tree.end; ++c) {
          const StateChunk& chunk = layout.chunks[static_cast<std::size_t>(c)];
          prepare_keys(view, group, chunk, scratch);
          for (std::int64_t head = group.values.begin; head < group.values.end; ++head) {
            const Columns result{memory.result.mutable_data_ptr<float>() +
                                     chunk.rows.begin * memory.result.stride(0) +
                                     head * heads.value_size,
                                 memory.result.stride(0)};
            run_chunk(view, chunk, head, {memory, heads, head}, result, scratch);
          }
        }
      });
  return memory;
}

DeltaOperands delta_rule_backward(const DeltaOperands& operands, const DeltaMemory& memory,
                                  const at::Tensor& d_result, const DeltaHeads& heads,
                                  const RecurrentLayout& layout) {
  DeltaOperands gradients{at::empty(operands.mixed.sizes(), operands.mixed.options()),
                          at::empty(operands.decays.sizes(), operands.decays.options()),
                          at::empty(operands.steps.sizes(), operands.steps.options())};
  const at::Tensor d_states = at::zeros_like(memory.states);
  const DeltaView view(operands, heads);
  const DeltaView d_view(gradients, heads);
  for_each_group_and_tree(heads, layout, [&](const DeltaGroup& group, Range tree, ChunkScratch& s) {
    for (std::int64_t c = tree.end - 1; c >= tree.begin; --c) {
      const StateChunk& chunk = layout.chunks[static_cast<std::size_t>(c)];
      const std::int64_t rows = chunk.rows.size();
      prepare_keys(view, group, chunk, s);
      std::fill_n(s.d_queries, rows * heads.key_size, 0.0F);
      std::fill_n(s.d_keys, rows * heads.key_size, 0.0F);
      std::fill_n(s.d_query_products, rows * rows, 0.0F);
      std::fill_n(s.d_key_products, rows * rows, 0.0F);
      for (std::int64_t head = group.values.begin; head < group.values.end; ++head) {
        const DeltaHeadMemory of_head(memory, heads, head);
        const auto d_state = [&](std::int64_t index) {
          return index < 0 ? nullptr
                           : d_states.mutable_data_ptr<float>() +
                                 (head * layout.states + index) * of_head.state_size;
        };
        const std::int64_t first = chunk.rows.begin * d_view.decays.stride + head;
        const DeltaHeadGradients to{d_view.at(chunk.rows.begin, d_view.value_column(head)),
                                    d_view.decays.first + first,
                                    d_view.steps.first + first,
                                    d_view.decays.stride,
                                    d_state(chunk.from),
                                    d_state(chunk.to)};
        const ConstColumns of_result{d_result.const_data_ptr<float>() +
                                         chunk.rows.begin * d_result.stride(0) +
                                         head * heads.value_size,
                                     d_result.stride(0)};
        run_chunk_backward(view, chunk, head, of_head, of_result, to, s);
      }
      finish_keys(d_view, group, chunk, s);
    }
  });
  return gradients;
}

at::Tensor step_through(const DeltaOperands& operands, const DeltaHeads& heads,
                        const std::vector<SteppedPart>& parts) {
  const at::Tensor result =
      at::empty({operands.mixed.size(0), heads.value_columns()}, operands.mixed.options());
  const DeltaView view(operands, heads);
  const auto count = static_cast<std::int64_t>(parts.size());
  const std::int64_t keys = heads.key_size;
  const std::int64_t values = heads.value_size;
  share_tasks(heads.value_heads() * count, [&](TaskQueue& queue) {
    std::vector<float> scratch(static_cast<std::size_t>(2 * keys + values));
    float* query = scratch.data();
    float* key = query + keys;
    while (const auto task = queue.next()) {
      const std::int64_t head = *task % heads.value_heads();
      const SteppedPart& part = parts[static_cast<std::size_t>(*task / heads.value_heads())];
      const DeltaGroup group(heads, heads.key_head_of_value[static_cast<std::size_t>(head)]);
      for (std::int64_t row = part.rows.begin; row < part.rows.end; ++row) {
        float scale = 0;
        kernels::unit_rows(constant(view.at(row, group.query_column)), 1, keys, group.factor,
                           dense(query, keys), &scale);
        kernels::unit_rows(constant(view.at(row, group.key_column)), 1, keys, 1, dense(key, keys),
                           &scale);
        kernels::step_state(
            query, key, view.at(row, view.value_column(head)).first,
            std::exp(view.decays.first[row * view.decays.stride + head]),
            view.steps.first[row * view.steps.stride + head], keys, values,
            part.state + head * keys * values, key + keys,
            result.mutable_data_ptr<float>() + row * result.stride(0) + head * values);
      }
    }
  });
  return result;
}

DeltaRates rates_by_row(const at::Tensor& x, const at::Tensor& y, const at::Tensor& bias,
                        const at::Tensor& scale) {
  const DeltaRates rates{at::empty(x.sizes(), x.options()), at::empty(y.sizes(), y.options())};
  const std::int64_t columns = x.size(1);
  for (std::int64_t row = 0; row < x.size(0); ++row) {
    kernels::rates(x.const_data_ptr<float>() + row * x.stride(0), bias.const_data_ptr<float>(),
                   scale.const_data_ptr<float>(), y.const_data_ptr<float>() + row * y.stride(0),
                   columns, rates.decays.mutable_data_ptr<float>() + row * columns,
                   rates.steps.mutable_data_ptr<float>() + row * columns);
  }
  return rates;
}

at::Tensor convolve(const at::Tensor& x, const at::Tensor& weight, const TapRows& taps) {
  const std::int64_t columns = weight.size(1);
  const at::Tensor out = at::empty(
      {static_cast<std::int64_t>(taps.rows.size()) / taps.taps, columns}, weight.options());
  for_each_convolved(taps, columns, [&](std::int64_t row, const std::int64_t* seen, Range part) {
    const auto rows = tapped(x.const_data_ptr<float>() + part.begin, x.stride(0), seen, taps.taps);
    kernels::convolve_row(rows.data(), taps.taps, weight.const_data_ptr<float>() + part.begin,
                          columns, part.size(),
                          out.mutable_data_ptr<float>() + row * columns + part.begin);
  });
  return out;
}

at::Tensor convolve_backward(const at::Tensor& x, const at::Tensor& weight, const TapRows& taps,
                             const at::Tensor& d_out) {
  const std::int64_t columns = weight.size(1);
  const at::Tensor dx = at::zeros({x.size(0), columns}, x.options());
  for_each_convolved(taps, columns, [&](std::int64_t row, const std::int64_t* seen, Range part) {
    std::array<float, kConvolvedColumns> slopes;
    const auto rows = tapped(x.const_data_ptr<float>() + part.begin, x.stride(0), seen, taps.taps);
    const auto d_rows =
        tapped(dx.mutable_data_ptr<float>() + part.begin, dx.stride(0), seen, taps.taps);
    kernels::convolve_row_backward(
        rows.data(), taps.taps, weight.const_data_ptr<float>() + part.begin, columns, part.size(),
        d_out.const_data_ptr<float>() + row * d_out.stride(0) + part.begin, slopes.data(),
        d_rows.data());
  });
  return dx;
}

}  // namespace bipo
