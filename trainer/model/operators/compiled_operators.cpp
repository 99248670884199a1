#include "trainer/model/operators/compiled_operators.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <limits>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/device_kernels/device_kernels.cuh"
#include "trainer/model/device_kernels/kernel_runner.hpp"

namespace bipo {
namespace {

namespace dk = device_kernels;

static_assert(static_cast<int>(Activation::kSilu) == dk::kSilu &&
              static_cast<int>(Activation::kGelu) == dk::kGelu &&
              static_cast<int>(Activation::kGeluTanh) == dk::kGeluTanh);

using Reads = std::array<const at::Tensor*, 7>;
using Writes = std::array<const at::Tensor*, 3>;

// Returns the elements in memory; null if there is no tensor.
const void* elements(const at::Tensor& x) {
  return x.defined() ? x.const_data_ptr() : nullptr;
}
void* target(const at::Tensor& x) {
  return x.defined() ? x.mutable_data_ptr() : nullptr;
}

int checked(std::int64_t columns) {
  if (columns > std::numeric_limits<int>::max()) {
    throw BugError(fmt::format("device kernel: {} columns", columns));
  }
  return static_cast<int>(columns);
}

// Returns how many threads compute a row of so many elements: a warp at least.
int threads_for(std::int64_t columns) {
  int threads = 32;
  while (threads < dk::kMostThreads && threads < columns) {
    threads *= 2;
  }
  return threads;
}

// Runs `kernel` for every row of `x`, which is among the tensors that it reads.
template <class Arguments>
void run_kernel(const char* kernel, const at::Tensor& x, std::int64_t columns,
                const Arguments& arguments, const Reads& reads, const Writes& writes) {
  if (x.size(0) == 0 || columns == 0) {
    return;
  }
  KernelCall call;
  call.kernel = kernel;
  call.type = x.scalar_type();
  call.rows = x.size(0);
  call.threads = threads_for(columns);
  call.arguments = &arguments;
  for (std::size_t i = 0; i < reads.size(); ++i) {
    call.reads.at(i) = reads.at(i) != nullptr && reads.at(i)->defined() ? reads.at(i) : nullptr;
  }
  for (std::size_t i = 0; i < writes.size(); ++i) {
    call.writes.at(i) = writes.at(i) != nullptr && writes.at(i)->defined() ? writes.at(i) : nullptr;
  }
  kernels_for(x.device())->run(call);
}

at::ScalarType sum_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// Returns whether the rows of x [T, C] may be read in place: each is dense.
bool has_dense_rows(const at::Tensor& x) {
  return x.size(1) <= 1 || x.stride(1) == 1;
}

}  // namespace

bool runs_compiled(const at::Tensor& x) {
  return kernels_for(x.device()) != nullptr;
}

Normed compiled_norm(const at::Tensor& x, const CompiledNorm& norm) {
  const at::Tensor rows = x.contiguous();
  const at::Tensor residual = norm.residual.defined() ? norm.residual.contiguous() : at::Tensor();
  const auto statistic = rows.options().dtype(sum_type(x));
  Normed result;
  result.y = at::empty_like(rows);
  result.scale = at::empty({x.size(0), 1}, statistic);
  if (norm.centred) {
    result.mean = at::empty_like(result.scale);
  }
  const dk::Norm arguments{elements(rows),      elements(norm.shift), elements(norm.weight),
                           elements(norm.bias), elements(residual),   target(result.y),
                           target(result.mean), target(result.scale), checked(x.size(1)),
                           norm.epsilon,        norm.factor};
  run_kernel("norm", rows, x.size(1), arguments,
             {&rows, &norm.shift, &norm.weight, &norm.bias, &residual},
             {&result.y, &result.mean, &result.scale});
  return result;
}

at::Tensor compiled_norm_backward(const at::Tensor& x, const CompiledNorm& norm,
                                  const Normed& normed, const at::Tensor& gradient) {
  const at::Tensor rows = x.contiguous();
  const at::Tensor dy = gradient.contiguous();
  const at::Tensor dx = at::empty_like(rows);
  const dk::NormBackward arguments{elements(rows),
                                   elements(norm.shift),
                                   elements(norm.weight),
                                   elements(normed.mean),
                                   elements(normed.scale),
                                   elements(dy),
                                   target(dx),
                                   checked(x.size(1)),
                                   norm.factor};
  run_kernel("norm_backward", rows, x.size(1), arguments,
             {&rows, &norm.shift, &norm.weight, &normed.mean, &normed.scale, &dy}, {&dx});
  return dx;
}

at::Tensor compiled_add_onto(const at::Tensor& residual, const at::Tensor& x,
                             const at::Tensor& shift, double factor) {
  const at::Tensor rows = x.contiguous();
  const at::Tensor stream = residual.contiguous();
  const at::Tensor y = at::empty_like(stream);
  const dk::AddOnto arguments{elements(stream), elements(rows),     elements(shift),
                              target(y),        checked(x.size(1)), factor};
  run_kernel("add_onto", rows, x.size(1), arguments, {&stream, &rows, &shift}, {&y});
  return y;
}

at::Tensor compiled_gated_unit(const at::Tensor& gate_up, Activation activation) {
  const at::Tensor rows = gate_up.contiguous();
  const std::int64_t columns = gate_up.size(1) / 2;
  const at::Tensor y = at::empty({gate_up.size(0), columns}, rows.options());
  const dk::GatedUnit arguments{elements(rows), target(y), checked(columns),
                                static_cast<int>(activation)};
  run_kernel("gated_unit", rows, columns, arguments, {&rows}, {&y});
  return y;
}

at::Tensor compiled_gated_unit_backward(const at::Tensor& gate_up, const at::Tensor& gradient,
                                        Activation activation) {
  const at::Tensor rows = gate_up.contiguous();
  const at::Tensor dy = gradient.contiguous();
  const std::int64_t columns = gate_up.size(1) / 2;
  const at::Tensor dx = at::empty_like(rows);
  const dk::GatedUnitBackward arguments{elements(rows), elements(dy), target(dx), checked(columns),
                                        static_cast<int>(activation)};
  run_kernel("gated_unit_backward", rows, columns, arguments, {&rows, &dy}, {&dx});
  return dx;
}

at::Tensor compiled_plain_unit(const at::Tensor& x, const at::Tensor& shift,
                               Activation activation) {
  const at::Tensor rows = x.contiguous();
  const at::Tensor y = at::empty_like(rows);
  const dk::PlainUnit arguments{elements(rows), elements(shift), target(y), checked(x.size(1)),
                                static_cast<int>(activation)};
  run_kernel("plain_unit", rows, x.size(1), arguments, {&rows, &shift}, {&y});
  return y;
}

at::Tensor compiled_plain_unit_backward(const at::Tensor& x, const at::Tensor& shift,
                                        const at::Tensor& gradient, Activation activation) {
  const at::Tensor rows = x.contiguous();
  const at::Tensor dy = gradient.contiguous();
  const at::Tensor dx = at::empty_like(rows);
  const dk::PlainUnitBackward arguments{elements(rows),     elements(shift),
                                        elements(dy),       target(dx),
                                        checked(x.size(1)), static_cast<int>(activation)};
  run_kernel("plain_unit_backward", rows, x.size(1), arguments, {&rows, &shift, &dy}, {&dx});
  return dx;
}

std::array<at::Tensor, 3> compiled_turn(const at::Tensor& x, const HeadCounts& heads,
                                        const at::Tensor& cos, const at::Tensor& sin) {
  const at::Tensor rows = has_dense_rows(x) ? x : x.contiguous();
  const std::int64_t size = cos.size(-1);
  std::array<at::Tensor, 3> result;
  for (std::size_t kind = 0; kind < result.size(); ++kind) {
    result.at(kind) = at::empty({x.size(0), heads.all().at(kind), size}, x.options());
  }
  const auto& [q, k, v] = result;
  const dk::Turn arguments{elements(rows),      elements(cos),
                           elements(sin),       target(q),
                           target(k),           target(v),
                           rows.stride(0),      checked(heads.queries),
                           checked(heads.keys), checked(heads.values),
                           checked(size)};
  run_kernel("turn", rows, x.size(1), arguments, {&rows, &cos, &sin}, {&q, &k, &v});
  return result;
}

at::Tensor compiled_turn_back(const std::array<at::Tensor, 3>& gradients, const HeadCounts& heads,
                              const at::Tensor& cos, const at::Tensor& sin) {
  const std::int64_t size = cos.size(-1);
  std::array<at::Tensor, 3> dense;
  for (std::size_t kind = 0; kind < dense.size(); ++kind) {
    const std::int64_t count = heads.all().at(kind);
    const at::Tensor& gradient = gradients.at(kind);
    dense.at(kind) = gradient.defined() ? gradient.contiguous()
                     : count == 0       ? at::empty({cos.size(0), 0, size}, cos.options())
                                        : at::zeros({cos.size(0), count, size}, cos.options());
  }
  const auto& [dq, d_k, dv] = dense;
  const at::Tensor dx = at::empty({cos.size(0), heads.sum() * size}, cos.options());
  const dk::TurnBack arguments{elements(dq),           elements(d_k),       elements(dv),
                               elements(cos),          elements(sin),       target(dx),
                               checked(heads.queries), checked(heads.keys), checked(heads.values),
                               checked(size)};
  run_kernel("turn_back", dx, dx.size(1), arguments, {&dq, &d_k, &dv, &cos, &sin}, {&dx});
  return dx;
}

}  // namespace bipo
