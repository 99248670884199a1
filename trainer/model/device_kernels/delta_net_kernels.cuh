// The kernels of a gated delta net, by the rules of device_kernels.cuh.
//
// They compute the recurrence of trainer/model/recurrence/delta_rule.hpp with what surrounds it:
// the short convolution, and the norm behind it with its gates.  T rows; Hk heads of queries and
// keys of size K, Hv heads of values of size V; C = 2 Hk K + Hv V columns, queries first, then keys
// and values.
//
// Rows are in chunks of at most `width`.  With G the sums of decays from a chunk's first row on, S
// the state before it, b the steps, D(r, j) = exp(G_r - G_j) and scaled queries q, the rows of a
// chunk are (Yang et al., arXiv 2412.06464, section 3.3)
//   u_r = v_r - exp(G_r) S^T k_r - sum over j < r of D(r, j) (k_r k_j) b_j u_j
//   o_r = exp(G_r) S^T q_r + sum over j <= r of D(r, j) (q_r k_j) b_j u_j
// and the state after its last row c is exp(G_c) S + sum over j of D(c, j) k_j (b_j u_j)^T.  A
// column of u, o and S depends on no other column of them, so that a thread takes one through all
// chunks of a part of a sequence.  Parts that follow others wait for the next launch.
#pragma once

#ifndef __CUDACC_RTC__
#include "trainer/model/device_kernels/kernel_elements.cuh"
#endif

namespace bipo::device_kernels {

// --- sizes, chunks and the convolution ----------------------------------------------------------

struct DeltaSizes {
  int key_heads;
  int value_heads;
  int key_size;
  int value_size;
};

BIPO_DEVICE long long columns_of(const DeltaSizes& sizes) {
  return 2LL * sizes.key_heads * sizes.key_size +
         static_cast<long long>(sizes.value_heads) * sizes.value_size;
}

// One row of the table of chunks.
struct Chunk {
  long long begin;
  long long end;
  long long from;      // the state that it begins with; -1: zeros
  long long to;        // where the state after it goes; -1: nobody needs it
  long long follower;  // its number among those with a state before them
  long long first_child;
  long long end_child;  // those that begin with the state after it
};

// silu(sum over taps of weight[tap] x[row that the tap sees]).
struct ShortConvolution {
  const void* x;
  const void* weight;     // [taps, C]
  const long long* rows;  // [T, taps]; `none`: zeros
  long long stride;       // between rows of x
  long long none;
  int taps;
  double factor;  // of queries
  DeltaSizes sizes;
};

// A head of the mixed columns.
struct MixedHead {
  long long row;
  int kind;  // 0: queries, 1: keys, 2: values
  int head;  // of its kind
  int size;
  long long column;  // its first
};

BIPO_DEVICE MixedHead mixed_head(const Block& block, const DeltaSizes& sizes) {
  const int heads = 2 * sizes.key_heads + sizes.value_heads;
  const int of_row = static_cast<int>(block.row() % heads);
  const int kind = of_row < sizes.key_heads ? 0 : of_row < 2 * sizes.key_heads ? 1 : 2;
  const long long key_columns = static_cast<long long>(sizes.key_heads) * sizes.key_size;
  MixedHead head;
  head.row = block.row() / heads;
  head.kind = kind;
  head.head = of_row - kind * sizes.key_heads;
  head.size = kind < 2 ? sizes.key_size : sizes.value_size;
  head.column = kind * key_columns + static_cast<long long>(head.head) * head.size;
  return head;
}

template <class T>
BIPO_DEVICE Activated<SumOf<T>> convolved(const ShortConvolution& call, long long row,
                                          long long column) {
  using Sum = SumOf<T>;
  const long long columns = columns_of(call.sizes);
  Sum sum = 0;
  for (int tap = 0; tap < call.taps; ++tap) {
    const long long seen = call.rows[row * call.taps + tap];
    if (seen != call.none) {
      sum += wide(static_cast<const T*>(call.weight)[tap * columns + column]) *
             wide(static_cast<const T*>(call.x)[seen * call.stride + column]);
    }
  }
  return activated(kSilu, sum);
}

// The factor that gives a head's numbers the length 1; 1 for values.
template <class T>
BIPO_DEVICE SumOf<T> unit_scale(const Block& block, const ShortConvolution& call,
                                const MixedHead& head) {
  using Sum = SumOf<T>;
  if (head.kind == 2) {
    return Sum(1);
  }
  constexpr Sum kLengthEpsilon = Sum(1e-6);
  const Sum squares = block.template sum<Sum>(head.size, [&](int i) {
    const Sum x = convolved<T>(call, head.row, head.column + i).value;
    return x * x;
  });
  return Sum(1) / sqrt(squares + kLengthEpsilon);
}

// The convolution's result, with queries and keys of length 1 and queries times `factor`.  A block
// of threads computes one head of one row.
struct DeltaMix {
  ShortConvolution of;
  void* mixed;  // [T, C]
};

template <class T>
BIPO_DEVICE void delta_mix(const Block& block, const DeltaMix& call) {
  const MixedHead head = mixed_head(block, call.of.sizes);
  const auto factor = head.kind == 0 ? static_cast<SumOf<T>>(call.of.factor) : SumOf<T>(1);
  const SumOf<T> scale = unit_scale<T>(block, call.of, head) * factor;
  T* mixed = row_of<T>(call.mixed, head.row, columns_of(call.of.sizes)) + head.column;
  block.each(head.size, [&](int i) {
    store(convolved<T>(call.of, head.row, head.column + i).value * scale, mixed[i]);
  });
}

// --- the rates -----------------------------------------------------------------------------------

// Decays scale softplus(x + bias) and steps sigmoid(y).  A block of threads computes one chunk.
struct DeltaRates {
  const void* decays;  // x
  const void* steps;   // y
  const void* bias;    // [Hv]
  const void* scale;   // [Hv]
  const Chunk* chunks;
  double*
      sums;  // [T, Hv]: G, which strong decays make so large that float32 differences lose digits
  void* steps_of_rows;  // [T, Hv]: b
  void* starts;         // [T, Hv]: exp(G)
  void* ends;           // [T, Hv]: exp(G of the chunk's last row - G)
  long long stride;     // between rows of x and y
  int heads;
};

template <class Sum>
BIPO_DEVICE Sum sigmoid(Sum x) {
  return Sum(1) / (Sum(1) + exp(-x));
}

template <class T>
BIPO_DEVICE void delta_rates(const Block& block, const DeltaRates& call) {
  using Sum = SumOf<T>;
  const Chunk chunk = call.chunks[block.row()];
  const auto element = [&](const void* matrix, long long row, int head) {
    return wide(row_of<T>(matrix, row, call.stride)[head]);
  };
  block.each(call.heads, [&](int head) {
    const Sum bias = wide(static_cast<const T*>(call.bias)[head]);
    const Sum scale = wide(static_cast<const T*>(call.scale)[head]);
    constexpr Sum kLinearFrom = Sum(20);
    double sum = 0;
    for (long long row = chunk.begin; row < chunk.end; ++row) {
      const Sum x = element(call.decays, row, head) + bias;
      sum += static_cast<double>(scale * (x > kLinearFrom ? x : log1p(exp(x))));
      const long long at = row * call.heads + head;
      call.sums[at] = sum;
      store(sigmoid(element(call.steps, row, head)), static_cast<T*>(call.steps_of_rows)[at]);
      store(exp(static_cast<Sum>(sum)), static_cast<T*>(call.starts)[at]);
    }
    for (long long row = chunk.begin; row < chunk.end; ++row) {
      const long long at = row * call.heads + head;
      store(exp(static_cast<Sum>(sum - call.sums[at])), static_cast<T*>(call.ends)[at]);
    }
  });
}

// --- the recurrence ------------------------------------------------------------------------------

// What the kernels of both passes share.
struct DeltaRule {
  const void* mixed;   // [T, C], by delta_mix()
  const double* sums;  // [T, Hv], by delta_rates(), as are the next three
  const void* steps;
  const void* starts;
  const void* ends;
  void* pairs;   // [T, Hv, 2, width]: D(r, j) (q_r k_j), and D(r, j) (k_r k_j)
  void* errors;  // [T, Hv, V]: u
  void* states;  // [states, Hv, K, V]
  const Chunk* chunks;
  const long long* chunk_of_row;  // [T]
  const long long* key_head;      // [Hv]: whose queries and keys a head of values uses
  DeltaSizes sizes;
  int width;
};

// One head of values of one row.
template <class T>
class DeltaRow {
 public:
  using Sum = SumOf<T>;

  BIPO_MEMBER DeltaRow(const DeltaRule& rule, long long row, int head)
      : rule_(rule), row_(row), head_(head) {}

  BIPO_MEMBER Sum query(int i) const { return mixed(rule_.key_head[head_], i); }
  BIPO_MEMBER Sum key(int i) const {
    return mixed(rule_.sizes.key_heads + rule_.key_head[head_], i);
  }
  BIPO_MEMBER Sum value(int i) const {
    const long long keys = 2LL * rule_.sizes.key_heads * rule_.sizes.key_size;
    return wide(row_of<T>(rule_.mixed, row_, columns_of(rule_.sizes))[keys + first_value() + i]);
  }
  BIPO_MEMBER Sum step() const { return of_row(rule_.steps); }
  BIPO_MEMBER Sum start() const { return of_row(rule_.starts); }
  BIPO_MEMBER Sum end() const { return of_row(rule_.ends); }
  BIPO_MEMBER double sum() const { return rule_.sums[number()]; }
  // A number of the row's in a matrix [T, Hv, size].
  BIPO_MEMBER Sum of(const void* matrix, int size, int i) const {
    return wide(row_of<T>(matrix, number(), size)[i]);
  }
  // b u
  BIPO_MEMBER Sum correction(int i) const {
    return step() * of(rule_.errors, rule_.sizes.value_size, i);
  }
  // [T, Hv]
  BIPO_MEMBER long long number() const { return row_ * rule_.sizes.value_heads + head_; }

 private:
  BIPO_MEMBER Sum of_row(const void* matrix) const {
    return wide(static_cast<const T*>(matrix)[number()]);
  }
  BIPO_MEMBER Sum mixed(long long head, int i) const {
    return wide(
        row_of<T>(rule_.mixed, row_, columns_of(rule_.sizes))[head * rule_.sizes.key_size + i]);
  }
  BIPO_MEMBER long long first_value() const {
    return static_cast<long long>(head_) * rule_.sizes.value_size;
  }

  const DeltaRule& rule_;
  long long row_;
  int head_;
};

// A block's head of values, and the number of the row, or of the part, that it is of.
struct DeltaPlace {
  BIPO_MEMBER DeltaPlace(const Block& block, const DeltaSizes& sizes)
      : number(block.row() / sizes.value_heads),
        head(static_cast<int>(block.row() % sizes.value_heads)) {}

  long long number;
  int head;
};

// What a block of threads that computes one head of one row begins with.
template <class T>
struct DeltaRowBlock {
  BIPO_MEMBER DeltaRowBlock(const Block& block, const DeltaRule& rule)
      : DeltaRowBlock(DeltaPlace(block, rule.sizes), rule) {}
  BIPO_MEMBER DeltaRowBlock(const DeltaPlace& place, const DeltaRule& rule)
      : row(place.number),
        head(place.head),
        chunk(rule.chunks[rule.chunk_of_row[row]]),
        own(rule, row, head) {}

  BIPO_MEMBER int place_in_chunk() const { return static_cast<int>(row - chunk.begin); }

  long long row;
  int head;
  Chunk chunk;
  DeltaRow<T> own;
};

// The state `number` of a head in a matrix [numbers, Hv, K, V].
template <class T>
BIPO_DEVICE T* state_of(void* states, const DeltaRule& rule, long long number, int head) {
  return row_of<T>(states, number * rule.sizes.value_heads + head,
                   static_cast<long long>(rule.sizes.key_size) * rule.sizes.value_size);
}

// The pairs of a row, `which` of the two.
template <class T>
BIPO_DEVICE T* pairs_of(void* pairs, const DeltaRule& rule, long long row, int head, int which) {
  return row_of<T>(pairs, (row * rule.sizes.value_heads + head) * 2 + which, rule.width);
}

// Computes the pairs.  A block of threads computes one head of one row.
template <class T>
BIPO_DEVICE void delta_pairs(const Block& block, const DeltaRule& rule) {
  using Sum = SumOf<T>;
  const DeltaRowBlock<T> at(block, rule);
  T* of_queries = pairs_of<T>(rule.pairs, rule, at.row, at.head, 0);
  T* of_keys = pairs_of<T>(rule.pairs, rule, at.row, at.head, 1);
  block.each(at.place_in_chunk() + 1, [&](int j) {
    const DeltaRow<T> other(rule, at.chunk.begin + j, at.head);
    Sum query_key = 0;
    Sum key_key = 0;
    for (int i = 0; i < rule.sizes.key_size; ++i) {
      query_key += at.own.query(i) * other.key(i);
      key_key += at.own.key(i) * other.key(i);
    }
    const Sum decay = exp(static_cast<Sum>(at.own.sum() - other.sum()));
    store(decay * query_key, of_queries[j]);
    store(decay * key_key, of_keys[j]);
  });
}

// Runs through the chunks of parts of sequences, after those that they follow.  A block of threads
// computes one head of one part, a thread columns of it.
struct DeltaScan {
  DeltaRule rule;
  const long long* parts;  // [parts, 2]: the first chunk of each, and the one behind its last
  void* result;            // [T, Hv, V]: o
};

template <class T>
BIPO_DEVICE void delta_scan(const Block& block, const DeltaScan& call) {
  using Sum = SumOf<T>;
  const DeltaRule& rule = call.rule;
  const int keys = rule.sizes.key_size;
  const int values = rule.sizes.value_size;
  const DeltaPlace part(block, rule.sizes);
  block.each(values, [&](int v) {
    for (long long c = call.parts[2 * part.number]; c < call.parts[2 * part.number + 1]; ++c) {
      const Chunk chunk = rule.chunks[c];
      const T* before =
          chunk.from < 0 ? nullptr : state_of<T>(rule.states, rule, chunk.from, part.head);
      for (long long row = chunk.begin; row < chunk.end; ++row) {
        const DeltaRow<T> own(rule, row, part.head);
        Sum error = own.value(v);
        Sum result = 0;
        if (before != nullptr) {
          Sum by_key = 0;
          for (int k = 0; k < keys; ++k) {
            const Sum state = wide(before[k * values + v]);
            by_key += own.key(k) * state;
            result += own.query(k) * state;
          }
          error -= own.start() * by_key;
          result *= own.start();
        }
        const T* of_queries = pairs_of<T>(rule.pairs, rule, row, part.head, 0);
        const T* of_keys = pairs_of<T>(rule.pairs, rule, row, part.head, 1);
        for (long long j = chunk.begin; j < row; ++j) {
          const Sum correction = DeltaRow<T>(rule, j, part.head).correction(v);
          error -= wide(of_keys[j - chunk.begin]) * correction;
          result += wide(of_queries[j - chunk.begin]) * correction;
        }
        store(error, row_of<T>(rule.errors, own.number(), values)[v]);
        result += wide(of_queries[row - chunk.begin]) * own.correction(v);
        store(result, row_of<T>(call.result, own.number(), values)[v]);
      }
      if (chunk.to < 0) {
        continue;
      }
      T* after = state_of<T>(rule.states, rule, chunk.to, part.head);
      const Sum decay = DeltaRow<T>(rule, chunk.end - 1, part.head).start();
      for (int k = 0; k < keys; ++k) {
        Sum sum = before == nullptr ? Sum(0) : decay * wide(before[k * values + v]);
        for (long long j = chunk.begin; j < chunk.end; ++j) {
          const DeltaRow<T> row(rule, j, part.head);
          sum += row.key(k) * (row.end() * row.correction(v));
        }
        store(sum, after[k * values + v]);
      }
    }
  });
}

// The gradients.  With x_r that by u_r's equation, before its step: that by v_r is b_r x_r.
struct DeltaRuleBackward {
  DeltaRule rule;
  const long long* parts;     // as in DeltaScan
  const long long* children;  // numbers of followers, by the chunk that they follow
  const void* d_result;       // [T, Hv, V]
  void* d_errors;             // [T, Hv, V]: x
  void* d_after;              // [states, Hv, K, V]: by the states
  void* d_before;             // [followers, Hv, K, V]: each follower's part of it
  void* d_pairs;              // [T, Hv, 2, width]: by q_r k_j and k_r k_j
  void* d_heads;              // [T, Hv, 3, K]: by queries; by keys as k_r; by keys as k_j
  void* d_sums;               // [T, Hv]
  void* d_steps;              // [T, Hv]
};

// Goes through the parts from their ends, after those that follow them: d_errors, d_after and
// d_before.  Blocks and threads as in delta_scan().
template <class T>
BIPO_DEVICE void delta_scan_backward(const Block& block, const DeltaRuleBackward& call) {
  using Sum = SumOf<T>;
  const DeltaRule& rule = call.rule;
  const int keys = rule.sizes.key_size;
  const int values = rule.sizes.value_size;
  const DeltaPlace part(block, rule.sizes);
  block.each(values, [&](int v) {
    for (long long c = call.parts[2 * part.number + 1] - 1; c >= call.parts[2 * part.number]; --c) {
      const Chunk chunk = rule.chunks[c];
      T* after = chunk.to < 0 ? nullptr : state_of<T>(call.d_after, rule, chunk.to, part.head);
      for (int k = 0; after != nullptr && k < keys; ++k) {
        Sum sum = 0;
        for (long long child = chunk.first_child; child < chunk.end_child; ++child) {
          sum += wide(
              state_of<T>(call.d_before, rule, call.children[child], part.head)[k * values + v]);
        }
        store(sum, after[k * values + v]);
      }
      for (long long row = chunk.end - 1; row >= chunk.begin; --row) {
        const DeltaRow<T> own(rule, row, part.head);
        Sum d = 0;
        for (int k = 0; after != nullptr && k < keys; ++k) {
          d += own.key(k) * wide(after[k * values + v]);
        }
        d *= own.end();
        const long long j = row - chunk.begin;
        for (long long i = chunk.end - 1; i >= row; --i) {
          const DeltaRow<T> later(rule, i, part.head);
          d += wide(pairs_of<T>(rule.pairs, rule, i, part.head, 0)[j]) *
               later.of(call.d_result, values, v);
          if (i > row) {
            d -= wide(pairs_of<T>(rule.pairs, rule, i, part.head, 1)[j]) * later.step() *
                 later.of(call.d_errors, values, v);
          }
        }
        store(d, row_of<T>(call.d_errors, own.number(), values)[v]);
      }
      if (chunk.from < 0) {
        continue;
      }
      T* before = state_of<T>(call.d_before, rule, chunk.follower, part.head);
      const Sum decay = DeltaRow<T>(rule, chunk.end - 1, part.head).start();
      for (int k = 0; k < keys; ++k) {
        Sum sum = after == nullptr ? Sum(0) : decay * wide(after[k * values + v]);
        for (long long r = chunk.begin; r < chunk.end; ++r) {
          const DeltaRow<T> row(rule, r, part.head);
          sum += row.start() * (row.query(k) * row.of(call.d_result, values, v) -
                                row.key(k) * (row.step() * row.of(call.d_errors, values, v)));
        }
        store(sum, before[k * values + v]);
      }
    }
  });
}

// Computes d_pairs, with their decays.  A block of threads computes one head of one row.
template <class T>
BIPO_DEVICE void delta_pairs_backward(const Block& block, const DeltaRuleBackward& call) {
  using Sum = SumOf<T>;
  const DeltaRule& rule = call.rule;
  const int values = rule.sizes.value_size;
  const DeltaRowBlock<T> at(block, rule);
  T* of_queries = pairs_of<T>(call.d_pairs, rule, at.row, at.head, 0);
  T* of_keys = pairs_of<T>(call.d_pairs, rule, at.row, at.head, 1);
  block.each(at.place_in_chunk() + 1, [&](int j) {
    const DeltaRow<T> other(rule, at.chunk.begin + j, at.head);
    Sum by_query = 0;
    Sum by_key = 0;
    for (int v = 0; v < values; ++v) {
      by_query += at.own.of(call.d_result, values, v) * other.correction(v);
      by_key += at.own.of(call.d_errors, values, v) * other.correction(v);
    }
    const Sum decay = exp(static_cast<Sum>(at.own.sum() - other.sum()));
    store(decay * by_query, of_queries[j]);
    store(-decay * at.own.step() * by_key, of_keys[j]);
  });
}

// Computes d_heads, d_sums and d_steps.  Every term of a result that has the factor exp(G_r) or
// exp(-G_j) is a product with q_r, k_r or k_j, so that its derivative by G is that product's own.
template <class T>
BIPO_DEVICE void delta_rows_backward(const Block& block, const DeltaRuleBackward& call) {
  using Sum = SumOf<T>;
  const DeltaRule& rule = call.rule;
  const int keys = rule.sizes.key_size;
  const int values = rule.sizes.value_size;
  const DeltaRowBlock<T> at(block, rule);
  const int place = at.place_in_chunk();
  const T* before =
      at.chunk.from < 0 ? nullptr : state_of<T>(rule.states, rule, at.chunk.from, at.head);
  const T* d_after =
      at.chunk.to < 0 ? nullptr : state_of<T>(call.d_after, rule, at.chunk.to, at.head);
  T* d_query = row_of<T>(call.d_heads, at.own.number() * 3, keys);
  T* d_key = d_query + keys;
  T* d_other_key = d_key + keys;
  block.each(keys, [&](int k) {
    Sum by_query = 0;
    Sum by_key = 0;
    Sum by_other = 0;
    for (int v = 0; v < values; ++v) {
      if (before != nullptr) {
        const Sum state = at.own.start() * wide(before[k * values + v]);
        by_query += state * at.own.of(call.d_result, values, v);
        by_key -= state * (at.own.step() * at.own.of(call.d_errors, values, v));
      }
      if (d_after != nullptr) {
        by_other += at.own.end() * wide(d_after[k * values + v]) * at.own.correction(v);
      }
    }
    const T* of_queries = pairs_of<T>(call.d_pairs, rule, at.row, at.head, 0);
    const T* of_keys = pairs_of<T>(call.d_pairs, rule, at.row, at.head, 1);
    for (int j = 0; j <= place; ++j) {
      const Sum other = DeltaRow<T>(rule, at.chunk.begin + j, at.head).key(k);
      by_query += wide(of_queries[j]) * other;
      by_key += j < place ? wide(of_keys[j]) * other : Sum(0);
    }
    for (long long i = at.row; i < at.chunk.end; ++i) {
      const DeltaRow<T> later(rule, i, at.head);
      by_other += wide(pairs_of<T>(call.d_pairs, rule, i, at.head, 0)[place]) * later.query(k);
      by_other += i > at.row
                      ? wide(pairs_of<T>(call.d_pairs, rule, i, at.head, 1)[place]) * later.key(k)
                      : Sum(0);
    }
    store(by_query, d_query[k]);
    store(by_key, d_key[k]);
    store(by_other, d_other_key[k]);
  });
  // A thread reads what it has written.
  Sum d_sum = block.template sum<Sum>(keys, [&](int k) {
    return at.own.query(k) * wide(d_query[k]) +
           at.own.key(k) * (wide(d_key[k]) - wide(d_other_key[k]));
  });
  if (d_after != nullptr && at.row + 1 == at.chunk.end) {
    const T* after = state_of<T>(rule.states, rule, at.chunk.to, at.head);
    d_sum += block.template sum<Sum>(keys * values,
                                     [&](int i) { return wide(d_after[i]) * wide(after[i]); });
  }
  const Sum d_step = block.template sum<Sum>(values, [&](int v) {
    return at.own.of(call.d_errors, values, v) * at.own.of(rule.errors, values, v);
  });
  if (block.is_first_thread()) {
    store(d_sum, static_cast<T*>(call.d_sums)[at.own.number()]);
    store(d_step, static_cast<T*>(call.d_steps)[at.own.number()]);
  }
}

// --- the gradients before the recurrence ---------------------------------------------------------

// The gradients of x and y of DeltaRates, into columns of `dx`.  A block computes one chunk.
struct DeltaRatesBackward {
  const void* decays;
  const void* bias;
  const void* scale;
  const void* steps_of_rows;
  const Chunk* chunks;
  const void* d_sums;
  const void* d_steps;
  void* dx;
  long long stride;         // between rows of x
  long long dx_stride;      // between rows of dx
  long long decays_column;  // in dx
  long long steps_column;
  int heads;
  int narrow;  // dx
};

template <class T>
BIPO_DEVICE void delta_rates_backward(const Block& block, const DeltaRatesBackward& call) {
  using Sum = SumOf<T>;
  const Chunk chunk = call.chunks[block.row()];
  block.each(call.heads, [&](int head) {
    const Sum bias = wide(static_cast<const T*>(call.bias)[head]);
    const Sum scale = wide(static_cast<const T*>(call.scale)[head]);
    Sum d_decay = 0;
    for (long long row = chunk.end - 1; row >= chunk.begin; --row) {
      const long long at = row * call.heads + head;
      const Sum x = wide(row_of<T>(call.decays, row, call.stride)[head]) + bias;
      const Sum step = wide(static_cast<const T*>(call.steps_of_rows)[at]);
      d_decay += wide(static_cast<const T*>(call.d_sums)[at]);
      const long long to = row * call.dx_stride + head;
      write<T>(d_decay * scale * sigmoid(x), call.dx, to + call.decays_column, call.narrow);
      write<T>(wide(static_cast<const T*>(call.d_steps)[at]) * step * (Sum(1) - step), call.dx,
               to + call.steps_column, call.narrow);
    }
  });
}

// The gradient by the convolution's sums, before silu.  A block computes one head of one row.
struct DeltaMixBackward {
  ShortConvolution of;
  const void* steps;
  const void* d_heads;
  const void* d_errors;
  const long long* first_value;  // [Hk + 1]: where the heads of values of each head of keys begin
  void* d_convolved;             // [T, C]
};

template <class T>
BIPO_DEVICE void delta_mix_backward(const Block& block, const DeltaMixBackward& call) {
  using Sum = SumOf<T>;
  const DeltaSizes& sizes = call.of.sizes;
  const MixedHead head = mixed_head(block, sizes);
  const auto d_result = [&](int i) {
    if (head.kind == 2) {
      const long long at = head.row * sizes.value_heads + head.head;
      return wide(static_cast<const T*>(call.steps)[at]) *
             wide(row_of<T>(call.d_errors, at, head.size)[i]);
    }
    Sum sum = 0;
    for (long long v = call.first_value[head.head]; v < call.first_value[head.head + 1]; ++v) {
      const T* d = row_of<T>(call.d_heads, (head.row * sizes.value_heads + v) * 3, head.size);
      sum += head.kind == 0 ? wide(d[i]) : wide(d[head.size + i]) + wide(d[2 * head.size + i]);
    }
    return sum;
  };
  const auto factor = head.kind == 0 ? static_cast<Sum>(call.of.factor) : Sum(1);
  const Sum scale = unit_scale<T>(block, call.of, head);
  const auto raw = [&](int i) { return convolved<T>(call.of, head.row, head.column + i); };
  Sum along = 0;  // of the gradient along the unit vector
  if (head.kind < 2) {
    along = block.template sum<Sum>(head.size,
                                    [&](int i) { return raw(i).value * scale * d_result(i); });
  }
  T* to = row_of<T>(call.d_convolved, head.row, columns_of(sizes)) + head.column;
  block.each(head.size, [&](int i) {
    const Activated<Sum> x = raw(i);
    store(factor * scale * (d_result(i) - x.value * scale * along) * x.slope, to[i]);
  });
}

// dx[row] = sum over the outputs that see the row of weight[tap] d[output].
struct TapsBackward {
  const void* weight;
  const void* d;               // [T, C]
  const long long* uses;       // output * taps + tap, those of row 0 first
  const long long* first_use;  // [T + 1]
  void* dx;
  long long stride;  // between rows of dx
  int columns;       // C
  int taps;
  int narrow;  // dx
};

template <class T>
BIPO_DEVICE void taps_backward(const Block& block, const TapsBackward& call) {
  const long long row = block.row();
  block.each(call.columns, [&](int i) {
    SumOf<T> sum = 0;
    for (long long at = call.first_use[row]; at < call.first_use[row + 1]; ++at) {
      const long long output = call.uses[at] / call.taps;
      const long long tap = call.uses[at] % call.taps;
      sum += wide(row_of<T>(call.weight, tap, call.columns)[i]) *
             wide(row_of<T>(call.d, output, call.columns)[i]);
    }
    write<T>(sum, call.dx, row * call.stride + i, call.narrow);
  });
}

// --- the norm behind it --------------------------------------------------------------------------

// y = silu(gate) RMSNorm(x) for every head of x by itself.  A block computes one head of one row.
struct GatedNorm {
  const void* x;          // [T, heads, columns]
  const long long* rows;  // of x, one for each row of y; null: all
  const void* gates;
  const void* weight;  // [columns]
  void* y;             // [rows, heads, columns]
  void* scale;         // [rows, heads], of the sums' type
  long long stride;    // between rows of gates
  int heads;
  int columns;
  double epsilon;
  int narrow;  // y
};

// The head of a row that a block of threads computes, for arguments of either pass.
template <class T>
struct GatedHead {
  template <class Call>
  BIPO_MEMBER GatedHead(const Block& block, const Call& call)
      : row(block.row() / call.heads),
        head(block.row() % call.heads),
        x_head((call.rows == nullptr ? row : call.rows[row]) * call.heads + head),
        x(row_of<T>(call.x, x_head, call.columns)),
        gate(row_of<T>(call.gates, row, call.stride) + head * call.columns) {}

  long long row;
  long long head;
  long long x_head;  // the head's number in x
  const T* x;
  const T* gate;
};

template <class T>
BIPO_DEVICE void gated_norm(const Block& block, const GatedNorm& call) {
  using Sum = SumOf<T>;
  const GatedHead<T> at(block, call);
  const Sum squares =
      block.template sum<Sum>(call.columns, [&](int i) { return wide(at.x[i]) * wide(at.x[i]); });
  const Sum scale =
      Sum(1) / sqrt(squares / static_cast<Sum>(call.columns) + static_cast<Sum>(call.epsilon));
  block.each(call.columns, [&](int i) {
    const Sum normed =
        rounded<T>(wide(at.x[i]) * scale * wide(static_cast<const T*>(call.weight)[i]));
    write<T>(rounded<T>(activated(kSilu, wide(at.gate[i])).value) * normed, call.y,
             block.row() * call.columns + i, call.narrow);
  });
  if (block.is_first_thread()) {
    static_cast<Sum*>(call.scale)[block.row()] = scale;
  }
}

struct GatedNormBackward {
  const void* x;
  const long long* rows;
  const void* gates;
  const void* weight;
  const void* scale;
  const void* dy;
  void* dx;  // [T, heads, columns]; rows of x that y does not use stay as they are
  void* d_gates;
  long long stride;  // between rows of gates
  long long d_gates_stride;
  long long d_gates_column;
  int heads;
  int columns;
  int narrow;  // d_gates
};

template <class T>
BIPO_DEVICE void gated_norm_backward(const Block& block, const GatedNormBackward& call) {
  using Sum = SumOf<T>;
  const GatedHead<T> at(block, call);
  const T* dy = row_of<T>(call.dy, block.row(), call.columns);
  const T* weight = static_cast<const T*>(call.weight);
  const Sum scale = static_cast<const Sum*>(call.scale)[block.row()];
  // As in norm_backward().
  const auto u = [&](int i) {
    return wide(dy[i]) * activated(kSilu, wide(at.gate[i])).value * wide(weight[i]);
  };
  const auto n = [&](int i) { return wide(at.x[i]) * scale; };
  const Sum mean_un = block.template sum<Sum>(call.columns, [&](int i) { return u(i) * n(i); }) /
                      static_cast<Sum>(call.columns);
  T* dx = row_of<T>(call.dx, at.x_head, call.columns);
  const long long to = at.row * call.d_gates_stride + call.d_gates_column + at.head * call.columns;
  block.each(call.columns, [&](int i) {
    store(scale * (u(i) - n(i) * mean_un), dx[i]);
    write<T>(wide(dy[i]) * n(i) * wide(weight[i]) * activated(kSilu, wide(at.gate[i])).slope,
             call.d_gates, to + i, call.narrow);
  });
}

}  // namespace bipo::device_kernels
