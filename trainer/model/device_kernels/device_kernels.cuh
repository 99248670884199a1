// The kernels that a device runs where libtorch would need several: norms, rotation, units with
// and without gates, sums with the residual stream, each with its gradient by the input (weights
// are frozen).
//
// NVRTC compiles this file for the GPU that is there, without any header (nvrtc.hpp).  The C++
// compiler compiles it for tests, as it is: only the first section, what a thread and a block are,
// differs.  Both add in the same order: thread i of n takes the elements i, i + n, ..., then the
// threads' sums are added as a tree.  Nothing is added atomically.
//
// A block of threads computes one row.  T is the elements' type in memory.  Sums and what lies
// between two roundings are float32, or float64 where the elements are.
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
    __shared__ Sum sums[kMostThreads];
    Sum own = 0;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
      own += term(i);
    }
    sums[threadIdx.x] = own;
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
      __syncthreads();
      if (threadIdx.x < half) {
        sums[threadIdx.x] += sums[threadIdx.x + half];
      }
    }
    __syncthreads();
    const Sum result = sums[0];
    __syncthreads();  // before the next sum writes there
    return result;
  }
};

#else

#define BIPO_DEVICE inline

using std::erf;
using std::exp;
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
  T* y = row_of<T>(call.y, block.row(), columns);
  block.each(columns, [&](int i) {
    Sum value = (shifted(x, call.shift, i) - mean) * scale * wide(weight[i]);
    if (call.bias != nullptr) {
      value += wide(static_cast<const T*>(call.bias)[i]);
    }
    if (call.residual != nullptr) {
      value = wide(row_of<T>(call.residual, block.row(), columns)[i]) +
              static_cast<Sum>(call.factor) * rounded<T>(value);
    }
    store(value, y[i]);
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
};

template <class T>
BIPO_DEVICE void gated_unit(const Block& block, const GatedUnit& call) {
  const T* gate = row_of<T>(call.gate_up, block.row(), 2 * call.columns);
  const T* up = gate + call.columns;
  T* out = row_of<T>(call.out, block.row(), call.columns);
  block.each(call.columns, [&](int i) {
    store(rounded<T>(activated(call.unit, wide(gate[i])).value) * wide(up[i]), out[i]);
  });
}

struct GatedUnitBackward {
  const void* gate_up;
  const void* d_out;
  void* d_gate_up;
  int columns;
  int unit;
};

template <class T>
BIPO_DEVICE void gated_unit_backward(const Block& block, const GatedUnitBackward& call) {
  const T* gate = row_of<T>(call.gate_up, block.row(), 2 * call.columns);
  const T* up = gate + call.columns;
  const T* d_out = row_of<T>(call.d_out, block.row(), call.columns);
  T* d_gate = row_of<T>(call.d_gate_up, block.row(), 2 * call.columns);
  T* d_up = d_gate + call.columns;
  block.each(call.columns, [&](int i) {
    const Activated<SumOf<T>> act = activated(call.unit, wide(gate[i]));
    store(rounded<T>(wide(d_out[i]) * wide(up[i])) * act.slope, d_gate[i]);
    store(wide(d_out[i]) * rounded<T>(act.value), d_up[i]);
  });
}

// out = activation(x + shift).
struct PlainUnit {
  const void* x;
  const void* shift;
  void* out;
  int columns;
  int unit;
};

template <class T>
BIPO_DEVICE void plain_unit(const Block& block, const PlainUnit& call) {
  const T* x = row_of<T>(call.x, block.row(), call.columns);
  T* out = row_of<T>(call.out, block.row(), call.columns);
  block.each(call.columns,
             [&](int i) { store(activated(call.unit, shifted(x, call.shift, i)).value, out[i]); });
}

struct PlainUnitBackward {
  const void* x;
  const void* shift;
  const void* d_out;
  void* dx;
  int columns;
  int unit;
};

template <class T>
BIPO_DEVICE void plain_unit_backward(const Block& block, const PlainUnitBackward& call) {
  const T* x = row_of<T>(call.x, block.row(), call.columns);
  const T* d_out = row_of<T>(call.d_out, block.row(), call.columns);
  T* dx = row_of<T>(call.dx, block.row(), call.columns);
  block.each(call.columns, [&](int i) {
    store(wide(d_out[i]) * activated(call.unit, shifted(x, call.shift, i)).slope, dx[i]);
  });
}

// --- rotation ------------------------------------------------------------------------------------

// A row of x holds `queries` query heads, `keys` key heads and `values` value heads of `head_size`
// numbers K each.  Query and key heads are turned, value heads copied; each kind becomes a matrix
// of its own.  Turned: element i becomes x[i] cos[i] + x[j] sin[i], where j is K / 2 away; the sine
// has a minus in the first half.  Every rotary embedding is one of these by its tables.
struct Turn {
  const void* x;
  const void* cos;  // [rows, K]
  const void* sin;  // [rows, K]
  void* q;          // [rows, queries, K], and likewise
  void* k;
  void* v;
  long long stride;  // between rows of x
  int queries;
  int keys;
  int values;
  int head_size;
};

template <class T>
BIPO_DEVICE void turn(const Block& block, const Turn& call) {
  const int size = call.head_size;
  const int of_queries = call.queries * size;
  const int of_keys = call.keys * size;
  const int of_values = call.values * size;
  const T* x = row_of<T>(call.x, block.row(), call.stride);
  const T* cos = row_of<T>(call.cos, block.row(), size);
  const T* sin = row_of<T>(call.sin, block.row(), size);
  T* q = row_of<T>(call.q, block.row(), of_queries);
  T* k = row_of<T>(call.k, block.row(), of_keys);
  T* v = row_of<T>(call.v, block.row(), of_values);
  block.each(of_queries + of_keys, [&](int at) {
    const int i = at % size;
    const int other = i < size / 2 ? at + size / 2 : at - size / 2;
    store(rounded<T>(wide(x[at]) * wide(cos[i])) + wide(x[other]) * wide(sin[i]),
          at < of_queries ? q[at] : k[at - of_queries]);
  });
  block.each(of_values, [&](int at) { v[at] = x[of_queries + of_keys + at]; });
}

// dx of the above: the gradients of queries and keys turned back, and those of the values.
struct TurnBack {
  const void* dq;
  const void* dk;
  const void* dv;
  const void* cos;
  const void* sin;
  void* dx;  // [rows, (queries + keys + values) K]
  int queries;
  int keys;
  int values;
  int head_size;
};

template <class T>
BIPO_DEVICE void turn_back(const Block& block, const TurnBack& call) {
  const int size = call.head_size;
  const int of_queries = call.queries * size;
  const int of_keys = call.keys * size;
  const int of_values = call.values * size;
  const T* dq = row_of<T>(call.dq, block.row(), of_queries);
  const T* dk = row_of<T>(call.dk, block.row(), of_keys);
  const T* dv = row_of<T>(call.dv, block.row(), of_values);
  const T* cos = row_of<T>(call.cos, block.row(), size);
  const T* sin = row_of<T>(call.sin, block.row(), size);
  T* dx = row_of<T>(call.dx, block.row(), of_queries + of_keys + of_values);
  block.each(of_queries + of_keys, [&](int at) {
    const int i = at % size;
    const int other = i < size / 2 ? at + size / 2 : at - size / 2;
    const auto d = [&](int of) {
      return of < of_queries ? wide(dq[of]) : wide(dk[of - of_queries]);
    };
    store(rounded<T>(d(at) * wide(cos[i])) - d(other) * wide(sin[i]), dx[at]);
  });
  block.each(of_values, [&](int at) { dx[of_queries + of_keys + at] = dv[at]; });
}

// --- entry points --------------------------------------------------------------------------------

// kernel, its arguments.
#define BIPO_EACH_KERNEL(apply)                                                      \
  apply(norm, Norm) apply(norm_backward, NormBackward) apply(add_onto, AddOnto)      \
      apply(gated_unit, GatedUnit) apply(gated_unit_backward, GatedUnitBackward)     \
          apply(plain_unit, PlainUnit) apply(plain_unit_backward, PlainUnitBackward) \
              apply(turn, Turn) apply(turn_back, TurnBack)

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
