// The kernels that a device runs where libtorch would need several: norms, units with and without
// gates, sums with the residual stream; what attention does beside its products: biases, norms and
// rotation of heads, rows gathered into slots and back, the softmax of capped scores; the gated
// delta rule with its convolution, rates, gates and norm (delta_net_kernels.cuh).  Each comes with
// its gradient by the input (weights are frozen).
//
// NVRTC compiles them for the GPU that is there, without any header (nvrtc.hpp): the program holds
// one text of kernel_elements.cuh, delta_net_kernels.cuh and this file, in this order.  The C++
// compiler compiles the same files for tests.
//
// A block of threads computes one row (of heads: one head of it).  T is the elements' type in
// memory.
#pragma once

#ifndef __CUDACC_RTC__
#include "trainer/model/device_kernels/delta_net_kernels.cuh"
#include "trainer/model/device_kernels/kernel_elements.cuh"
#endif

namespace bipo::device_kernels {

// --- norms ---------------------------------------------------------------------------------------

// y = residual + factor * norm(x + shift), norm(z) = (z - mean(z)) * scale * weight + bias with
// scale = 1 / sqrt(variance(z) + epsilon), or without mean and bias, and mean(z^2) for the
// variance, where `mean` is null.  shift, bias and residual may be null.
struct Norm {
  const void* x;
  const void* shift;   // [columns]
  const void* weight;  // [columns]
  const void* bias;    // [columns]
  const void* residual;
  void* y;
  void* mean;   // [rows], of the sums' type
  void* scale;  // [rows], likewise
  int columns;
  double epsilon;
  double factor;
  int narrow;  // y
};

template <class T>
BIPO_DEVICE SumOf<T> shifted(const T* x, const void* shift, int i) {
  return shift == nullptr ? wide(x[i])
                          : rounded<T>(wide(x[i]) + wide(static_cast<const T*>(shift)[i]));
}

template <class T>
BIPO_DEVICE void norm(const Block& block, const Norm& call) {
  using Sum = SumOf<T>;
  const int columns = call.columns;
  const T* x = row_of<T>(call.x, block.row(), columns);
  const auto count = static_cast<Sum>(columns);
  Sum mean = 0;
  if (call.mean != nullptr) {
    mean =
        block.template sum<Sum>(columns, [&](int i) { return shifted(x, call.shift, i); }) / count;
  }
  const Sum squares = block.template sum<Sum>(columns, [&](int i) {
    const Sum z = shifted(x, call.shift, i) - mean;
    return z * z;
  });
  const Sum scale = Sum(1) / sqrt(squares / count + static_cast<Sum>(call.epsilon));
  const T* weight = static_cast<const T*>(call.weight);
  block.each(columns, [&](int i) {
    Sum value = (shifted(x, call.shift, i) - mean) * scale * wide(weight[i]);
    if (call.bias != nullptr) {
      value += wide(static_cast<const T*>(call.bias)[i]);
    }
    if (call.residual != nullptr) {
      value = wide(row_of<T>(call.residual, block.row(), columns)[i]) +
              static_cast<Sum>(call.factor) * rounded<T>(value);
    }
    write<T>(value, call.y, block.row() * columns + i, call.narrow);
  });
  if (block.is_first_thread()) {
    static_cast<Sum*>(call.scale)[block.row()] = scale;
    if (call.mean != nullptr) {
      static_cast<Sum*>(call.mean)[block.row()] = mean;
    }
  }
}

// dx of the above from dy.  With u = factor dy weight and n = (z - mean) scale:
// dx = scale (u - mean(u) - n mean(u n)), or without mean(u).
struct NormBackward {
  const void* x;
  const void* shift;
  const void* weight;
  const void* mean;
  const void* scale;
  const void* dy;
  void* dx;
  int columns;
  double factor;
};

template <class T>
BIPO_DEVICE void norm_backward(const Block& block, const NormBackward& call) {
  using Sum = SumOf<T>;
  const int columns = call.columns;
  const T* x = row_of<T>(call.x, block.row(), columns);
  const T* dy = row_of<T>(call.dy, block.row(), columns);
  const T* weight = static_cast<const T*>(call.weight);
  const Sum scale = static_cast<const Sum*>(call.scale)[block.row()];
  const Sum mean = call.mean == nullptr ? Sum(0) : static_cast<const Sum*>(call.mean)[block.row()];
  const auto factor = static_cast<Sum>(call.factor);
  const auto u = [&](int i) { return rounded<T>(factor * wide(dy[i])) * wide(weight[i]); };
  const auto n = [&](int i) { return (shifted(x, call.shift, i) - mean) * scale; };
  const auto count = static_cast<Sum>(columns);
  const Sum mean_u = call.mean == nullptr ? Sum(0) : block.template sum<Sum>(columns, u) / count;
  const Sum mean_un = block.template sum<Sum>(columns, [&](int i) { return u(i) * n(i); }) / count;
  T* dx = row_of<T>(call.dx, block.row(), columns);
  block.each(columns, [&](int i) { store(scale * (u(i) - mean_u - n(i) * mean_un), dx[i]); });
}

// --- sums with the residual stream ---------------------------------------------------------------

// y = residual + factor * (x + shift); its gradients are dy and factor * dy.
struct AddOnto {
  const void* residual;
  const void* x;
  const void* shift;
  void* y;
  int columns;
  double factor;
};

template <class T>
BIPO_DEVICE void add_onto(const Block& block, const AddOnto& call) {
  const T* x = row_of<T>(call.x, block.row(), call.columns);
  const T* residual = row_of<T>(call.residual, block.row(), call.columns);
  T* y = row_of<T>(call.y, block.row(), call.columns);
  const auto factor = static_cast<SumOf<T>>(call.factor);
  block.each(call.columns,
             [&](int i) { store(wide(residual[i]) + factor * shifted(x, call.shift, i), y[i]); });
}

// --- units ---------------------------------------------------------------------------------------

// out = activation(gate) * up, for gate_up = gate (I numbers), up (I numbers) in each row.
struct GatedUnit {
  const void* gate_up;
  void* out;
  int columns;  // I
  int unit;
  int narrow;  // out
};

template <class T>
BIPO_DEVICE void gated_unit(const Block& block, const GatedUnit& call) {
  const T* gate = row_of<T>(call.gate_up, block.row(), 2 * call.columns);
  const T* up = gate + call.columns;
  block.each(call.columns, [&](int i) {
    write<T>(rounded<T>(activated(call.unit, wide(gate[i])).value) * wide(up[i]), call.out,
             block.row() * call.columns + i, call.narrow);
  });
}

struct GatedUnitBackward {
  const void* gate_up;
  const void* d_out;
  void* d_gate_up;
  int columns;
  int unit;
  int narrow;  // d_gate_up
};

template <class T>
BIPO_DEVICE void gated_unit_backward(const Block& block, const GatedUnitBackward& call) {
  const T* gate = row_of<T>(call.gate_up, block.row(), 2 * call.columns);
  const T* up = gate + call.columns;
  const T* d_out = row_of<T>(call.d_out, block.row(), call.columns);
  const long long d_gate = block.row() * 2 * call.columns;
  block.each(call.columns, [&](int i) {
    const Activated<SumOf<T>> act = activated(call.unit, wide(gate[i]));
    write<T>(rounded<T>(wide(d_out[i]) * wide(up[i])) * act.slope, call.d_gate_up, d_gate + i,
             call.narrow);
    write<T>(wide(d_out[i]) * rounded<T>(act.value), call.d_gate_up, d_gate + call.columns + i,
             call.narrow);
  });
}

// out = activation(x + shift).
struct PlainUnit {
  const void* x;
  const void* shift;
  void* out;
  int columns;
  int unit;
  int narrow;  // out
};

template <class T>
BIPO_DEVICE void plain_unit(const Block& block, const PlainUnit& call) {
  const T* x = row_of<T>(call.x, block.row(), call.columns);
  block.each(call.columns, [&](int i) {
    write<T>(activated(call.unit, shifted(x, call.shift, i)).value, call.out,
             block.row() * call.columns + i, call.narrow);
  });
}

struct PlainUnitBackward {
  const void* x;
  const void* shift;
  const void* d_out;
  void* dx;
  int columns;
  int unit;
  int narrow;  // dx
};

template <class T>
BIPO_DEVICE void plain_unit_backward(const Block& block, const PlainUnitBackward& call) {
  const T* x = row_of<T>(call.x, block.row(), call.columns);
  const T* d_out = row_of<T>(call.d_out, block.row(), call.columns);
  block.each(call.columns, [&](int i) {
    write<T>(wide(d_out[i]) * activated(call.unit, shifted(x, call.shift, i)).slope, call.dx,
             block.row() * call.columns + i, call.narrow);
  });
}

// --- heads ---------------------------------------------------------------------------------------

// A row of x holds `queries` query heads, `keys` key heads and `values` value heads of `head_size`
// numbers K each, or values are the keys' numbers once more (`shares_keys`).  A shift is added;
// then heads of a kind that has a norm pass through RMSNorm, each by itself or all of the kind
// together
// (`together`), queries are multiplied by the factor of their row, and queries and keys are turned:
// element i of a head becomes z[i] cos[i] + z[j] sin[i], where j is K / 2 away; the sine has a
// minus in the first half.  Every rotary embedding is one of these by its tables.  Shift, norms and
// factors may be null.
//
// A block of threads computes one head of one row, or all heads of a kind where they are normed
// together.
struct Heads {
  const void* x;
  const void* shift;       // [the columns of x]
  const void* query_norm;  // weights, [K], or of all heads of the kind
  const void* key_norm;
  const void* value_norm;
  const void* query_factor;  // [rows]
  const void* cos;           // [rows, K]
  const void* sin;           // [rows, K]
  long long stride;          // between rows of x
  int queries;
  int keys;
  int values;
  int head_size;
  double epsilon;
  int together;
  int shares_keys;
};

// Each kind becomes a matrix of its own.
struct Turn {
  Heads heads;
  void* q;  // [rows, queries, K], dense
  void* k;  // rows of `keys` heads
  void* v;  // rows of `values` heads
  long long k_stride;
  long long v_stride;
  int narrow;  // the three
};

// What a block of threads computes of one row: one head, or all heads of a kind.
template <class T>
struct Head {
  long long row;
  int kind;     // 0: queries, 1: keys, 2: values
  int head;     // of its kind, the first
  int columns;  // K for each head
  const T* x;
  const void* shift;
  const T* norm;  // null: none
  SumOf<T> factor;
  const T* cos;
  const T* sin;
};

// The heads of `kind` from `head` on, or all of them where the kind is normed together.
template <class T>
BIPO_DEVICE Head<T> head_of_kind(const Heads& heads, long long row, int kind, int head) {
  const int counts[] = {heads.queries, heads.keys, heads.values};
  const int firsts[] = {0, heads.queries,
                        heads.shares_keys != 0 ? heads.queries : heads.queries + heads.keys};
  const void* norms[] = {heads.query_norm, heads.key_norm, heads.value_norm};
  Head<T> result;
  result.row = row;
  result.kind = kind;
  result.head = head;
  result.columns = (heads.together != 0 ? counts[kind] : 1) * heads.head_size;
  const long long column = static_cast<long long>(firsts[kind] + head) * heads.head_size;
  result.x = heads.x == nullptr ? nullptr : row_of<T>(heads.x, row, heads.stride) + column;
  result.shift = heads.shift == nullptr ? nullptr : static_cast<const T*>(heads.shift) + column;
  result.norm = static_cast<const T*>(norms[kind]);
  result.factor = kind == 0 && heads.query_factor != nullptr
                      ? wide(static_cast<const T*>(heads.query_factor)[row])
                      : SumOf<T>(1);
  result.cos = row_of<T>(heads.cos, row, heads.head_size);
  result.sin = row_of<T>(heads.sin, row, heads.head_size);
  return result;
}

// What the block computes, of `values` heads of values.
template <class T>
BIPO_DEVICE Head<T> head_of(const Block& block, const Heads& heads, int values) {
  const int kinds = values > 0 ? 3 : 2;
  if (heads.together != 0) {
    return head_of_kind<T>(heads, block.row() / kinds, static_cast<int>(block.row() % kinds), 0);
  }
  const int count = heads.queries + heads.keys + values;
  const int of_row = static_cast<int>(block.row() % count);
  const int kind = of_row < heads.queries ? 0 : of_row < heads.queries + heads.keys ? 1 : 2;
  const int before = (kind > 0 ? heads.queries : 0) + (kind > 1 ? heads.keys : 0);
  return head_of_kind<T>(heads, block.row() / count, kind, of_row - before);
}

// The scale of the head's norm, 1 / sqrt(mean(z^2) + epsilon).
template <class T>
BIPO_DEVICE SumOf<T> scale_of(const Block& block, const Heads& heads, const Head<T>& head) {
  using Sum = SumOf<T>;
  if (head.norm == nullptr || head.columns == 0) {
    return Sum(1);
  }
  const Sum squares = block.template sum<Sum>(head.columns, [&](int i) {
    const Sum z = shifted(head.x, head.shift, i);
    return z * z;
  });
  return Sum(1) / sqrt(squares / static_cast<Sum>(head.columns) + static_cast<Sum>(heads.epsilon));
}

// The element with which element i of the heads turns.
BIPO_DEVICE int partner(int i, int size) {
  return i % size < size / 2 ? i + size / 2 : i - size / 2;
}

template <class T>
BIPO_DEVICE void turn(const Block& block, const Turn& call) {
  using Sum = SumOf<T>;
  const int size = call.heads.head_size;
  const Head<T> head = head_of<T>(block, call.heads, call.heads.values);
  const Sum scale = scale_of(block, call.heads, head);
  const auto value = [&](int i) {
    Sum z = shifted(head.x, head.shift, i);
    if (head.norm != nullptr) {
      z = rounded<T>(z * scale * wide(head.norm[i]));
    }
    return head.factor == Sum(1) ? z : rounded<T>(z * head.factor);
  };
  void* const targets[] = {call.q, call.k, call.v};
  const long long strides[] = {static_cast<long long>(call.heads.queries) * size, call.k_stride,
                               call.v_stride};
  const long long first = head.row * strides[head.kind] + static_cast<long long>(head.head) * size;
  block.each(head.columns, [&](int i) {
    const Sum turned = head.kind == 2 ? value(i)
                                      : rounded<T>(value(i) * wide(head.cos[i % size])) +
                                            value(partner(i, size)) * wide(head.sin[i % size]);
    write<T>(turned, targets[head.kind], first + i, call.narrow);
  });
}

// dx of the above: the gradients of queries and keys turned back, and those of the values, then
// through factors and norms.  A gradient that is null is 0.
struct TurnBack {
  Heads heads;  // x and shift are read for norms only
  const void* dq;
  const void* dk;
  const void* dv;
  void* dx;  // rows of as many columns as the heads have in x
  long long k_stride;
  long long v_stride;
  int narrow_dq;
  int narrow_dkv;
  int narrow;  // dx
};

// The gradient of one kind's numbers by those in x.
template <class T>
class HeadGradient {
 public:
  using Sum = SumOf<T>;

  BIPO_MEMBER HeadGradient(const Block& block, const TurnBack& call, const Head<T>& head)
      : head_(head), size_(call.heads.head_size) {
    const void* const gradients[] = {call.dq, call.dk, call.dv};
    const long long strides[] = {static_cast<long long>(call.heads.queries) * size_, call.k_stride,
                                 call.v_stride};
    gradient_ = gradients[head.kind];
    narrow_ = head.kind == 0 ? call.narrow_dq : call.narrow_dkv;
    first_ = head.row * strides[head.kind] + static_cast<long long>(head.head) * size_;
    scale_ = scale_of(block, call.heads, head);
    if (head.norm != nullptr && head.columns > 0) {
      mean_un_ = block.template sum<Sum>(head.columns, [&](int i) { return u(i) * n(i); }) /
                 static_cast<Sum>(head.columns);
    }
  }

  BIPO_MEMBER Sum at(int i) const {
    // As in norm_backward().
    return head_.norm == nullptr ? d_value(i) : scale_ * (u(i) - n(i) * mean_un_);
  }

 private:
  BIPO_MEMBER Sum d(int i) const {
    return gradient_ == nullptr ? Sum(0) : read<T>(gradient_, first_ + i, narrow_);
  }
  BIPO_MEMBER Sum d_value(int i) const {
    const Sum back = head_.kind == 2 ? d(i)
                                     : rounded<T>(d(i) * wide(head_.cos[i % size_])) -
                                           d(partner(i, size_)) * wide(head_.sin[i % size_]);
    return head_.factor == Sum(1) ? back : rounded<T>(back) * head_.factor;
  }
  BIPO_MEMBER Sum u(int i) const { return rounded<T>(d_value(i)) * wide(head_.norm[i]); }
  BIPO_MEMBER Sum n(int i) const { return shifted(head_.x, head_.shift, i) * scale_; }

  Head<T> head_;
  int size_;
  const void* gradient_;
  int narrow_;
  long long first_;
  Sum scale_;
  Sum mean_un_ = 0;
};

template <class T>
BIPO_DEVICE void turn_back(const Block& block, const TurnBack& call) {
  const Heads& heads = call.heads;
  const bool shares = heads.shares_keys != 0;
  const Head<T> head = head_of<T>(block, heads, shares ? 0 : heads.values);
  const int in_x = heads.queries + heads.keys + (shares ? 0 : heads.values);
  const int before = (head.kind > 0 ? heads.queries : 0) + (head.kind > 1 ? heads.keys : 0);
  const long long target =
      (head.row * in_x + before + head.head) * static_cast<long long>(heads.head_size);
  const HeadGradient<T> own(block, call, head);
  if (!shares || head.kind == 0) {
    block.each(head.columns, [&](int i) { write<T>(own.at(i), call.dx, target + i, call.narrow); });
    return;
  }
  const HeadGradient<T> of_value(block, call, head_of_kind<T>(heads, head.row, 2, head.head));
  block.each(head.columns, [&](int i) {
    write<T>(rounded<T>(own.at(i)) + of_value.at(i), call.dx, target + i, call.narrow);
  });
}

// --- slots ---------------------------------------------------------------------------------------

// Attention takes S spans of `slots` slots each, padded to the longest: [S, heads, slots, K].  A
// slot names the row that it holds.

// Element strides of such a matrix; a head's numbers are dense.
struct SlotStrides {
  long long span;
  long long head;
  long long slot;
};

// y[span, h, i] = x[row of the slot, head_of[h]], dense; 0 in slots that repeat a row which another
// slot holds, where slot_of_row is not null.
struct ToSlots {
  const void* x;
  const long long* row_of_slot;
  const long long* slot_of_row;
  const long long* head_of;  // null: the same
  void* y;
  long long stride;       // between rows of x
  long long head_stride;  // between heads of a row
  int heads;              // of y
  int slots;
  int head_size;
  int by_slot;  // y is [span, i, h] in memory
  int narrow;   // x
};

template <class T>
BIPO_DEVICE void to_slots(const Block& block, const ToSlots& call) {
  const long long by_head = block.row() / call.slots;
  const long long slot = call.by_slot != 0
                             ? block.row() / call.heads
                             : by_head / call.heads * call.slots + block.row() % call.slots;
  const long long head = (call.by_slot != 0 ? block.row() : by_head) % call.heads;
  const long long row = call.row_of_slot[slot];
  const bool is_empty = call.slot_of_row != nullptr && call.slot_of_row[row] != slot;
  const long long from = call.head_of == nullptr ? head : call.head_of[head];
  const long long first = row * call.stride + from * call.head_stride;
  T* y = row_of<T>(call.y, block.row(), call.head_size);
  block.each(call.head_size, [&](int i) {
    store(is_empty ? SumOf<T>(0) : read<T>(call.x, first + i, call.narrow), y[i]);
  });
}

// y[row, h] = x[slot of the row, h], dense.
struct FromSlots {
  const void* x;
  const long long* slot_of_row;
  void* y;
  SlotStrides strides;  // of x
  int heads;
  int slots;
  int head_size;
  int narrow;  // y
};

template <class T>
BIPO_DEVICE void from_slots(const Block& block, const FromSlots& call) {
  const long long slot = call.slot_of_row[block.row() / call.heads];
  const T* x = static_cast<const T*>(call.x) + slot / call.slots * call.strides.span +
               block.row() % call.heads * call.strides.head + slot % call.slots * call.strides.slot;
  block.each(call.head_size, [&](int i) {
    write<T>(wide(x[i]), call.y, block.row() * call.head_size + i, call.narrow);
  });
}

// y[row, h] = the sum of x[slot, g] over the slots that hold the row, in their order, and the heads
// g of x from first_head[h] until first_head[h + 1].
struct SumSlots {
  const void* x;
  const long long* slots_by_row;  // those of row 0 first
  const long long* first_slot;    // [rows + 1], among these
  const long long* first_head;    // [heads + 1]; null: h alone
  void* y;                        // rows of `heads` heads
  SlotStrides strides;            // of x
  long long stride;               // between rows of y
  int heads;
  int slots;
  int head_size;
  int narrow;  // x
};

template <class T>
BIPO_DEVICE void sum_slots(const Block& block, const SumSlots& call) {
  const long long row = block.row() / call.heads;
  const long long head = block.row() % call.heads;
  const long long heads_begin = call.first_head == nullptr ? head : call.first_head[head];
  const long long heads_end = call.first_head == nullptr ? head + 1 : call.first_head[head + 1];
  T* y = row_of<T>(call.y, row, call.stride) + head * call.head_size;
  block.each(call.head_size, [&](int i) {
    SumOf<T> sum = 0;
    for (long long at = call.first_slot[row]; at < call.first_slot[row + 1]; ++at) {
      const long long slot = call.slots_by_row[at];
      const long long first =
          slot / call.slots * call.strides.span + slot % call.slots * call.strides.slot;
      for (long long g = heads_begin; g < heads_end; ++g) {
        sum += read<T>(call.x, first + g * call.strides.head + i, call.narrow);
      }
    }
    store(sum, y[i]);
  });
}

// --- capped scores -------------------------------------------------------------------------------

// weights = softmax(cap tanh(scale / cap scores) + bias) over the last dimension of scores [S,
// heads, queries, columns]; bias [S, queries, columns] is 0 or minus infinity.
struct CappedSoftmax {
  const void* scores;
  const void* bias;
  void* weights;
  long long bias_stride;  // between queries
  int heads;
  int queries;
  int columns;
  double scale;
  double cap;
};

template <class T>
BIPO_DEVICE void capped_softmax(const Block& block, const CappedSoftmax& call) {
  using Sum = SumOf<T>;
  const T* scores = row_of<T>(call.scores, block.row(), call.columns);
  const long long span = block.row() / call.queries / call.heads;
  const T* bias =
      row_of<T>(call.bias, span * call.queries + block.row() % call.queries, call.bias_stride);
  const auto factor = static_cast<Sum>(call.scale / call.cap);
  const auto cap = static_cast<Sum>(call.cap);
  const auto logit = [&](int i) { return cap * tanh(factor * wide(scores[i])) + wide(bias[i]); };
  const Sum most = block.template largest<Sum>(call.columns, logit);
  const Sum sum =
      block.template sum<Sum>(call.columns, [&](int i) { return exp(logit(i) - most); });
  T* weights = row_of<T>(call.weights, block.row(), call.columns);
  block.each(call.columns, [&](int i) { store(exp(logit(i) - most) / sum, weights[i]); });
}

// The gradient by the scores, written over that by the weights.
struct CappedSoftmaxBackward {
  const void* scores;
  const void* weights;
  void* d;
  int columns;
  double scale;
  double cap;
};

template <class T>
BIPO_DEVICE void capped_softmax_backward(const Block& block, const CappedSoftmaxBackward& call) {
  using Sum = SumOf<T>;
  const T* scores = row_of<T>(call.scores, block.row(), call.columns);
  const T* weights = row_of<T>(call.weights, block.row(), call.columns);
  T* d = row_of<T>(call.d, block.row(), call.columns);
  const auto factor = static_cast<Sum>(call.scale / call.cap);
  const auto scale = static_cast<Sum>(call.scale);
  const Sum mean =
      block.template sum<Sum>(call.columns, [&](int i) { return wide(weights[i]) * wide(d[i]); });
  block.each(call.columns, [&](int i) {
    const Sum bent = tanh(factor * wide(scores[i]));
    store(wide(weights[i]) * (wide(d[i]) - mean) * (Sum(1) - bent * bent) * scale, d[i]);
  });
}

// --- entry points --------------------------------------------------------------------------------

// kernel, its arguments.
#define BIPO_EACH_KERNEL(apply)                                                                    \
  apply(norm, Norm) apply(norm_backward, NormBackward) apply(add_onto, AddOnto)                    \
      apply(gated_unit, GatedUnit) apply(gated_unit_backward, GatedUnitBackward) apply(            \
          plain_unit, PlainUnit) apply(plain_unit_backward, PlainUnitBackward) apply(turn, Turn)   \
          apply(turn_back, TurnBack) apply(to_slots, ToSlots) apply(from_slots, FromSlots)         \
              apply(sum_slots, SumSlots) apply(capped_softmax, CappedSoftmax)                      \
                  apply(capped_softmax_backward, CappedSoftmaxBackward) apply(delta_mix, DeltaMix) \
                      apply(delta_rates, DeltaRates) apply(delta_pairs, DeltaRule) apply(          \
                          delta_scan, DeltaScan) apply(delta_scan_backward, DeltaRuleBackward)     \
                          apply(delta_pairs_backward, DeltaRuleBackward)                           \
                              apply(delta_rows_backward, DeltaRuleBackward)                        \
                                  apply(delta_rates_backward, DeltaRatesBackward)                  \
                                      apply(delta_mix_backward, DeltaMixBackward)                  \
                                          apply(taps_backward, TapsBackward)                       \
                                              apply(gated_norm, GatedNorm)                         \
                                                  apply(gated_norm_backward, GatedNormBackward)

#ifdef __CUDACC_RTC__
#define BIPO_ENTRY_POINTS(kernel, Arguments)                 \
  extern "C" __global__ void __launch_bounds__(kMostThreads) \
      kernel##_float32(const Arguments call) {               \
    kernel<float>(Block(), call);                            \
  }                                                          \
  extern "C" __global__ void __launch_bounds__(kMostThreads) \
      kernel##_bfloat16(const Arguments call) {              \
    kernel<BFloat16>(Block(), call);                         \
  }                                                          \
  extern "C" __global__ void __launch_bounds__(kMostThreads) \
      kernel##_float64(const Arguments call) {               \
    kernel<double>(Block(), call);                           \
  }
BIPO_EACH_KERNEL(BIPO_ENTRY_POINTS)
#endif

}  // namespace bipo::device_kernels
