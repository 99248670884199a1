// How operators on tensors run the kernels of device_kernels.cuh.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

#include <fmt/format.h>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/device_kernels/device_kernels.cuh"
#include "trainer/model/device_kernels/kernel_runner.hpp"

namespace bipo {

// Returns the elements in memory; null if there is no tensor.
inline const void* elements(const at::Tensor& x) {
  return x.defined() ? x.const_data_ptr() : nullptr;
}
inline void* target(const at::Tensor& x) {
  return x.defined() ? x.mutable_data_ptr() : nullptr;
}
inline const long long* indices(const at::Tensor& x) {
  return static_cast<const long long*>(elements(x));
}

// Returns a number that kernels count in an int.  Throws BugError if it is none.
inline int checked(std::int64_t count) {
  if (count > std::numeric_limits<int>::max()) {
    throw BugError(fmt::format("device kernel: {} columns", count));
  }
  return static_cast<int>(count);
}

// Returns the gradient in x's type: where it is of a narrow result it may be of either.
inline at::Tensor in_type_of(const at::Tensor& x, const at::Tensor& gradient) {
  return gradient.scalar_type() == x.scalar_type() ? gradient.contiguous()
                                                   : gradient.to(x.scalar_type()).contiguous();
}

// So many rows of so many numbers, computed in a type.
struct Grid {
  at::ScalarType type;
  std::int64_t rows;
  std::int64_t columns;
};

using KernelReads = decltype(KernelCall::reads);
using KernelWrites = decltype(KernelCall::writes);

// Runs `kernel` for every row, with a warp for each at least.  The first tensor that it reads is
// not undefined, others may be.
template <class Arguments>
void run_kernel(const char* kernel, const Grid& grid, const Arguments& arguments,
                const KernelReads& reads, const KernelWrites& writes) {
  if (grid.rows == 0 || grid.columns == 0) {
    return;
  }
  KernelCall call;
  call.kernel = kernel;
  call.type = grid.type;
  call.rows = grid.rows;
  call.threads = 32;
  while (call.threads < device_kernels::kMostThreads && call.threads < grid.columns) {
    call.threads *= 2;
  }
  call.arguments = &arguments;
  call.argument_bytes = sizeof(Arguments);
  const auto is_there = [](const at::Tensor* x) {
    return x != nullptr && x->defined() && x->numel() > 0;
  };
  for (std::size_t i = 0; i < reads.size(); ++i) {
    call.reads.at(i) = is_there(reads.at(i)) ? reads.at(i) : nullptr;
  }
  for (std::size_t i = 0; i < writes.size(); ++i) {
    call.writes.at(i) = is_there(writes.at(i)) ? writes.at(i) : nullptr;
  }
  kernels_for(reads.front()->device())->run(call);
}

// Runs it for every row of `x`, which is among the tensors that it reads.
template <class Arguments>
void run_kernel(const char* kernel, const at::Tensor& x, std::int64_t columns,
                const Arguments& arguments, const KernelReads& reads, const KernelWrites& writes) {
  run_kernel(kernel, Grid{x.scalar_type(), x.size(0), columns}, arguments, reads, writes);
}

}  // namespace bipo
