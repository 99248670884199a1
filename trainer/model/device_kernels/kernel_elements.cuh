// What the kernels of device_kernels.cuh are written in: threads and blocks, the elements' types,
// activations.
//
// NVRTC compiles this file without any header, as a part of one text (kernel_source.cpp.in).  The
// C++ compiler compiles it for tests, as it is: only the first section, what a thread and a block
// are, differs.  Both add in the same order: thread i of n takes the elements i, i + n, ..., then
// the threads' sums are added as a tree.  Nothing is added atomically.
//
// T is the elements' type in memory.  Sums and what lies between two roundings are float32, or
// float64 where the elements are.
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

}  // namespace bipo::device_kernels
