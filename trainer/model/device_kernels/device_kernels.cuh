// The kernels that a device runs where libtorch would need several: norms, units with and without
// gates, sums with the residual stream; what attention does beside its products: biases, norms and
// rotation of heads, rows gathered into slots and back, the softmax of capped scores; the gated
// delta rule with its convolution, rates, gates and norm.  Each comes with its gradient by the
// input (weights are frozen).
//
// NVRTC compiles this file for the GPU that is there, without any header (nvrtc.hpp).  The C++
// compiler compiles it for tests, as it is: only the first section, what a thread and a block are,
// differs.  Both add in the same order: thread i of n takes the elements i, i + n, ..., then the
// threads' sums are added as a tree.  Nothing is added atomically.
//
// A block of threads computes one row (of heads: one head of it).  T is the elements' type in
// memory.  Sums and what lies between two roundings are float32, or float64 where the elements are.
#pragma once

#ifndef __CUDACC_RTC__
#include <bit>
#include <cmath>
#endif

namespace bipo::device_kernels {

// Threads of a block at most; their number is a power of 2.
constexpr int kMostThreads = 256;

// --- what a thread and a block are ---------------------------------------------------------------

#ifdef __CUDACC_RTC__

#define BIPO_DEVICE __device__ inline
#define BIPO_MEMBER __device__

BIPO_DEVICE float float_of(unsigned bits) {
  return __uint_as_float(bits);
}

BIPO_DEVICE unsigned bits_of(float x) {
  return __float_as_uint(x);
}

class Block {
 public:
  __device__ long long row() const { return blockIdx.x; }
  __device__ bool is_first_thread() const { return threadIdx.x == 0; }

  // Calls work(i) for every i below `count`.
  template <class Work>
  __device__ void each(int count, const Work& work) const {
    for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
      work(i);
    }
  }

  // Returns the sum of term(i) over every i below `count`, to all threads.
  template <class Sum, class Term>
  __device__ Sum sum(int count, const Term& term) const {
    return joined(Sum(0), count, term, [](Sum a, Sum b) { return a + b; });
  }

  // Likewise the largest.
  template <class Sum, class Term>
  __device__ Sum largest(int count, const Term& term) const {
    return joined(term(0), count, term, [](Sum a, Sum b) { return a > b ? a : b; });
  }

 private:
  template <class Sum, class Term, class Join>
  __device__ Sum joined(Sum own, int count, const Term& term, const Join& join) const {
    __shared__ Sum of_thread[kMostThreads];
    for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
      own = join(own, term(i));
    }
    of_thread[threadIdx.x] = own;
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
      __syncthreads();
      if (threadIdx.x < half) {
        of_thread[threadIdx.x] = join(of_thread[threadIdx.x], of_thread[threadIdx.x + half]);
      }
    }
    __syncthreads();
    const Sum result = of_thread[0];
    __syncthreads();  // before the next call writes there
    return result;
  }
};

#else

#define BIPO_DEVICE inline
#define BIPO_MEMBER

using std::erf;
using std::exp;
using std::log1p;
using std::sqrt;
using std::tanh;

BIPO_DEVICE float float_of(unsigned bits) {
  return std::bit_cast<float>(bits);
}

BIPO_DEVICE unsigned bits_of(float x) {
  return std::bit_cast<unsigned>(x);
}

class Block {
 public:
  Block(long long row, int threads) : row_(row), threads_(threads) {}

  long long row() const { return row_; }
  bool is_first_thread() const { return true; }

  template <class Work>
  void each(int count, const Work& work) const {
    for (int i = 0; i < count; ++i) {
      work(i);
    }
  }

  template <class Sum, class Term>
  Sum sum(int count, const Term& term) const {
    Sum sums[kMostThreads] = {};
    for (int i = 0; i < count; ++i) {
      sums[i % threads_] += term(i);
    }
    for (int half = threads_ / 2; half > 0; half /= 2) {
      for (int thread = 0; thread < half; ++thread) {
        sums[thread] += sums[thread + half];
      }
    }
    return sums[0];
  }

  template <class Sum, class Term>
  Sum largest(int count, const Term& term) const {
    Sum result = term(0);
    for (int i = 1; i < count; ++i) {
      const Sum other = term(i);
      result = other > result ? other : result;
    }
    return result;
  }

 private:
  long long row_;
  int threads_;
};

#endif

// --- the elements' types -------------------------------------------------------------------------

struct BFloat16 {
  unsigned short bits;
};

template <class T>
struct Elements {
  using Sum = float;
};
template <>
struct Elements<double> {
  using Sum = double;
};
template <class T>
using SumOf = typename Elements<T>::Sum;

BIPO_DEVICE double wide(double x) {
  return x;
}
BIPO_DEVICE float wide(float x) {
  return x;
}
BIPO_DEVICE float wide(BFloat16 x) {
  return float_of(static_cast<unsigned>(x.bits) << 16);
}

BIPO_DEVICE void store(double x, double& to) {
  to = x;
}
BIPO_DEVICE void store(float x, float& to) {
  to = x;
}
// Rounds to the nearest, ties to even; not a number stays one.
BIPO_DEVICE void store(float x, BFloat16& to) {
  const unsigned bits = bits_of(x);
  to.bits =
      static_cast<unsigned short>(x != x ? 0x7fc0U : (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

// Returns x as it would be if it were stored as a T.
template <class T>
BIPO_DEVICE SumOf<T> rounded(SumOf<T> x) {
  T stored;
  store(x, stored);
  return wide(stored);
}

// Element `at` of a matrix of T, or of BFloat16 where that is `narrow`: an operand of a product in
// bfloat16, or a result of one.
template <class T>
BIPO_DEVICE SumOf<T> read(const void* matrix, long long at, int narrow) {
  return narrow != 0 ? static_cast<SumOf<T>>(wide(static_cast<const BFloat16*>(matrix)[at]))
                     : wide(static_cast<const T*>(matrix)[at]);
}
template <class T>
BIPO_DEVICE void write(SumOf<T> value, void* matrix, long long at, int narrow) {
  if (narrow != 0) {
    store(static_cast<float>(value), static_cast<BFloat16*>(matrix)[at]);
  } else {
    store(value, static_cast<T*>(matrix)[at]);
  }
}

// The row's first element of a matrix with so many columns.
template <class T>
BIPO_DEVICE T* row_of(void* matrix, long long row, long long columns) {
  return static_cast<T*>(matrix) + row * columns;
}
template <class T>
BIPO_DEVICE const T* row_of(const void* matrix, long long row, long long columns) {
  return static_cast<const T*>(matrix) + row * columns;
}

// --- activations ---------------------------------------------------------------------------------

// The same numbers as those of Activation in trainer/model/architecture/config.hpp.
enum Unit { kSilu, kGelu, kGeluTanh };

template <class Sum>
struct Activated {
  Sum value;
  Sum slope;
};

template <class Sum>
BIPO_DEVICE Activated<Sum> activated(int unit, Sum x) {
  if (unit == kSilu) {
    const Sum sigmoid = Sum(1) / (Sum(1) + exp(-x));
    return {x / (Sum(1) + exp(-x)), sigmoid * (Sum(1) + x * (Sum(1) - sigmoid))};
  }
  if (unit == kGelu) {
    constexpr Sum kSqrtHalf = Sum(0.70710678118654752440);
    constexpr Sum kDensityAt0 = Sum(0.39894228040143267794);
    const Sum below = Sum(0.5) * (Sum(1) + erf(x * kSqrtHalf));
    return {x * below, below + x * kDensityAt0 * exp(Sum(-0.5) * x * x)};
  }
  constexpr Sum kOuter = Sum(0.79788456080286535588);  // sqrt(2 / pi)
  constexpr Sum kCubic = Sum(0.044715);
  const Sum bent = tanh(kOuter * (x + kCubic * x * x * x));
  // Where bent is 1 or -1, the other factor may be infinite.
  const Sum flat = Sum(1) - bent * bent;
  const Sum bend = flat == Sum(0) ? Sum(0) : flat * kOuter * (Sum(1) + Sum(3) * kCubic * x * x);
  return {Sum(0.5) * x * (Sum(1) + bent), Sum(0.5) * (Sum(1) + bent) + Sum(0.5) * x * bend};
}

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

// --- the gated delta rule ------------------------------------------------------------------------

// The recurrence of trainer/model/recurrence/delta_rule.hpp with what surrounds it: the short
// convolution, and the norm behind it with its gates.  T rows; Hk heads of queries and keys of size
// K, Hv heads of values of size V; C = 2 Hk K + Hv V columns, queries first, then keys and values.
//
// Rows are in chunks of at most `width`.  With G the sums of decays from a chunk's first row on, S
// the state before it, b the steps, D(r, j) = exp(G_r - G_j) and scaled queries q, the rows of a
// chunk are (Yang et al., arXiv 2412.06464, section 3.3)
//   u_r = v_r - exp(G_r) S^T k_r - sum over j < r of D(r, j) (k_r k_j) b_j u_j
//   o_r = exp(G_r) S^T q_r + sum over j <= r of D(r, j) (q_r k_j) b_j u_j
// and the state after its last row c is exp(G_c) S + sum over j of D(c, j) k_j (b_j u_j)^T.  A
// column of u, o and S depends on no other column of them, so that a thread takes one through all
// chunks of a part of a sequence.  Parts that follow others wait for the next launch.

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
  const long long row = block.row() / rule.sizes.value_heads;
  const int head = static_cast<int>(block.row() % rule.sizes.value_heads);
  const Chunk chunk = rule.chunks[rule.chunk_of_row[row]];
  const DeltaRow<T> own(rule, row, head);
  T* of_queries = pairs_of<T>(rule.pairs, rule, row, head, 0);
  T* of_keys = pairs_of<T>(rule.pairs, rule, row, head, 1);
  block.each(static_cast<int>(row - chunk.begin) + 1, [&](int j) {
    const DeltaRow<T> other(rule, chunk.begin + j, head);
    Sum query_key = 0;
    Sum key_key = 0;
    for (int i = 0; i < rule.sizes.key_size; ++i) {
      query_key += own.query(i) * other.key(i);
      key_key += own.key(i) * other.key(i);
    }
    const Sum decay = exp(static_cast<Sum>(own.sum() - other.sum()));
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
  const long long part = block.row() / rule.sizes.value_heads;
  const int head = static_cast<int>(block.row() % rule.sizes.value_heads);
  block.each(values, [&](int v) {
    for (long long c = call.parts[2 * part]; c < call.parts[2 * part + 1]; ++c) {
      const Chunk chunk = rule.chunks[c];
      const T* before = chunk.from < 0 ? nullptr : state_of<T>(rule.states, rule, chunk.from, head);
      for (long long row = chunk.begin; row < chunk.end; ++row) {
        const DeltaRow<T> own(rule, row, head);
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
        const T* of_queries = pairs_of<T>(rule.pairs, rule, row, head, 0);
        const T* of_keys = pairs_of<T>(rule.pairs, rule, row, head, 1);
        for (long long j = chunk.begin; j < row; ++j) {
          const Sum correction = DeltaRow<T>(rule, j, head).correction(v);
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
      T* after = state_of<T>(rule.states, rule, chunk.to, head);
      const Sum decay = DeltaRow<T>(rule, chunk.end - 1, head).start();
      for (int k = 0; k < keys; ++k) {
        Sum sum = before == nullptr ? Sum(0) : decay * wide(before[k * values + v]);
        for (long long j = chunk.begin; j < chunk.end; ++j) {
          const DeltaRow<T> row(rule, j, head);
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
  const long long part = block.row() / rule.sizes.value_heads;
  const int head = static_cast<int>(block.row() % rule.sizes.value_heads);
  block.each(values, [&](int v) {
    for (long long c = call.parts[2 * part + 1] - 1; c >= call.parts[2 * part]; --c) {
      const Chunk chunk = rule.chunks[c];
      T* after = chunk.to < 0 ? nullptr : state_of<T>(call.d_after, rule, chunk.to, head);
      for (int k = 0; after != nullptr && k < keys; ++k) {
        Sum sum = 0;
        for (long long child = chunk.first_child; child < chunk.end_child; ++child) {
          sum += wide(state_of<T>(call.d_before, rule, call.children[child], head)[k * values + v]);
        }
        store(sum, after[k * values + v]);
      }
      for (long long row = chunk.end - 1; row >= chunk.begin; --row) {
        const DeltaRow<T> own(rule, row, head);
        Sum d = 0;
        for (int k = 0; after != nullptr && k < keys; ++k) {
          d += own.key(k) * wide(after[k * values + v]);
        }
        d *= own.end();
        const long long j = row - chunk.begin;
        for (long long i = chunk.end - 1; i >= row; --i) {
          const DeltaRow<T> later(rule, i, head);
          d += wide(pairs_of<T>(rule.pairs, rule, i, head, 0)[j]) *
               later.of(call.d_result, values, v);
          if (i > row) {
            d -= wide(pairs_of<T>(rule.pairs, rule, i, head, 1)[j]) * later.step() *
                 later.of(call.d_errors, values, v);
          }
        }
        store(d, row_of<T>(call.d_errors, own.number(), values)[v]);
      }
      if (chunk.from < 0) {
        continue;
      }
      T* before = state_of<T>(call.d_before, rule, chunk.follower, head);
      const Sum decay = DeltaRow<T>(rule, chunk.end - 1, head).start();
      for (int k = 0; k < keys; ++k) {
        Sum sum = after == nullptr ? Sum(0) : decay * wide(after[k * values + v]);
        for (long long r = chunk.begin; r < chunk.end; ++r) {
          const DeltaRow<T> row(rule, r, head);
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
  const long long row = block.row() / rule.sizes.value_heads;
  const int head = static_cast<int>(block.row() % rule.sizes.value_heads);
  const Chunk chunk = rule.chunks[rule.chunk_of_row[row]];
  const DeltaRow<T> own(rule, row, head);
  T* of_queries = pairs_of<T>(call.d_pairs, rule, row, head, 0);
  T* of_keys = pairs_of<T>(call.d_pairs, rule, row, head, 1);
  block.each(static_cast<int>(row - chunk.begin) + 1, [&](int j) {
    const DeltaRow<T> other(rule, chunk.begin + j, head);
    Sum by_query = 0;
    Sum by_key = 0;
    for (int v = 0; v < values; ++v) {
      by_query += own.of(call.d_result, values, v) * other.correction(v);
      by_key += own.of(call.d_errors, values, v) * other.correction(v);
    }
    const Sum decay = exp(static_cast<Sum>(own.sum() - other.sum()));
    store(decay * by_query, of_queries[j]);
    store(-decay * own.step() * by_key, of_keys[j]);
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
  const long long row = block.row() / rule.sizes.value_heads;
  const int head = static_cast<int>(block.row() % rule.sizes.value_heads);
  const Chunk chunk = rule.chunks[rule.chunk_of_row[row]];
  const DeltaRow<T> own(rule, row, head);
  const int place = static_cast<int>(row - chunk.begin);
  const T* before = chunk.from < 0 ? nullptr : state_of<T>(rule.states, rule, chunk.from, head);
  const T* d_after = chunk.to < 0 ? nullptr : state_of<T>(call.d_after, rule, chunk.to, head);
  T* d_query = row_of<T>(call.d_heads, own.number() * 3, keys);
  T* d_key = d_query + keys;
  T* d_other_key = d_key + keys;
  block.each(keys, [&](int k) {
    Sum by_query = 0;
    Sum by_key = 0;
    Sum by_other = 0;
    for (int v = 0; v < values; ++v) {
      if (before != nullptr) {
        const Sum state = own.start() * wide(before[k * values + v]);
        by_query += state * own.of(call.d_result, values, v);
        by_key -= state * (own.step() * own.of(call.d_errors, values, v));
      }
      if (d_after != nullptr) {
        by_other += own.end() * wide(d_after[k * values + v]) * own.correction(v);
      }
    }
    const T* of_queries = pairs_of<T>(call.d_pairs, rule, row, head, 0);
    const T* of_keys = pairs_of<T>(call.d_pairs, rule, row, head, 1);
    for (int j = 0; j <= place; ++j) {
      const Sum other = DeltaRow<T>(rule, chunk.begin + j, head).key(k);
      by_query += wide(of_queries[j]) * other;
      by_key += j < place ? wide(of_keys[j]) * other : Sum(0);
    }
    for (long long i = row; i < chunk.end; ++i) {
      const DeltaRow<T> later(rule, i, head);
      by_other += wide(pairs_of<T>(call.d_pairs, rule, i, head, 0)[place]) * later.query(k);
      by_other += i > row ? wide(pairs_of<T>(call.d_pairs, rule, i, head, 1)[place]) * later.key(k)
                          : Sum(0);
    }
    store(by_query, d_query[k]);
    store(by_key, d_key[k]);
    store(by_other, d_other_key[k]);
  });
  // A thread reads what it has written.
  Sum d_sum = block.template sum<Sum>(keys, [&](int k) {
    return own.query(k) * wide(d_query[k]) + own.key(k) * (wide(d_key[k]) - wide(d_other_key[k]));
  });
  if (d_after != nullptr && row + 1 == chunk.end) {
    const T* after = state_of<T>(rule.states, rule, chunk.to, head);
    d_sum += block.template sum<Sum>(keys * values,
                                     [&](int i) { return wide(d_after[i]) * wide(after[i]); });
  }
  const Sum d_step = block.template sum<Sum>(values, [&](int v) {
    return own.of(call.d_errors, values, v) * own.of(rule.errors, values, v);
  });
  if (block.is_first_thread()) {
    store(d_sum, static_cast<T*>(call.d_sums)[own.number()]);
    store(d_step, static_cast<T*>(call.d_steps)[own.number()]);
  }
}

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

template <class T>
BIPO_DEVICE void gated_norm(const Block& block, const GatedNorm& call) {
  using Sum = SumOf<T>;
  const long long row = block.row() / call.heads;
  const long long head = block.row() % call.heads;
  const long long x_row = call.rows == nullptr ? row : call.rows[row];
  const T* x = row_of<T>(call.x, x_row * call.heads + head, call.columns);
  const T* gate = row_of<T>(call.gates, row, call.stride) + head * call.columns;
  const Sum squares =
      block.template sum<Sum>(call.columns, [&](int i) { return wide(x[i]) * wide(x[i]); });
  const Sum scale =
      Sum(1) / sqrt(squares / static_cast<Sum>(call.columns) + static_cast<Sum>(call.epsilon));
  block.each(call.columns, [&](int i) {
    const Sum normed = rounded<T>(wide(x[i]) * scale * wide(static_cast<const T*>(call.weight)[i]));
    write<T>(rounded<T>(activated(kSilu, wide(gate[i])).value) * normed, call.y,
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
  const long long row = block.row() / call.heads;
  const long long head = block.row() % call.heads;
  const long long x_row = call.rows == nullptr ? row : call.rows[row];
  const T* x = row_of<T>(call.x, x_row * call.heads + head, call.columns);
  const T* gate = row_of<T>(call.gates, row, call.stride) + head * call.columns;
  const T* dy = row_of<T>(call.dy, block.row(), call.columns);
  const T* weight = static_cast<const T*>(call.weight);
  const Sum scale = static_cast<const Sum*>(call.scale)[block.row()];
  // As in norm_backward().
  const auto u = [&](int i) {
    return wide(dy[i]) * activated(kSilu, wide(gate[i])).value * wide(weight[i]);
  };
  const auto n = [&](int i) { return wide(x[i]) * scale; };
  const Sum mean_un = block.template sum<Sum>(call.columns, [&](int i) { return u(i) * n(i); }) /
                      static_cast<Sum>(call.columns);
  T* dx = row_of<T>(call.dx, x_row * call.heads + head, call.columns);
  const long long to = row * call.d_gates_stride + call.d_gates_column + head * call.columns;
  block.each(call.columns, [&](int i) {
    store(scale * (u(i) - n(i) * mean_un), dx[i]);
    write<T>(wide(dy[i]) * n(i) * wide(weight[i]) * activated(kSilu, wide(gate[i])).slope,
             call.d_gates, to + i, call.narrow);
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
