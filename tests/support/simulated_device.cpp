#include "tests/support/simulated_device.hpp"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/native/transformers/sdp_utils_cpp.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "collectives/device_graph.hpp"
#include "tests/support/flash_reference.hpp"
#include "tests/support/host_kernels.hpp"
#include "tests/support/simulated_memory.hpp"

namespace bipo::testing {
namespace {

// --- what a thread does --------------------------------------------------------------------------

thread_local c10::DeviceIndex selected = 0;
thread_local std::array<c10::StreamId, kSimulatedDevices>
    streams{};                      // the current one of each device
thread_local int kernel_depth = 0;  // of kernels that run on the CPU for the device
thread_local int uncounted_depth = 0;
thread_local DeviceCounts counts;
thread_local std::map<std::string, std::int64_t> kernels;

class Graph;
thread_local Graph* recorded = nullptr;  // under way

struct InKernel {
  InKernel() { ++kernel_depth; }
  ~InKernel() { --kernel_depth; }
};

bool counts_now() {
  return kernel_depth == 0 && uncounted_depth == 0 && recorded == nullptr;
}

void count(std::int64_t DeviceCounts::*what) {
  counts.*what += counts_now() ? 1 : 0;
}

void count_kernel(const std::string& name) {
  if (counts_now()) {
    ++counts.kernels;
    ++kernels[name];
  }
}

void count_unordered_sum() {
  if (counts_now()) {
    ++kernels[kUnorderedSum];
  }
}

c10::Stream current_stream(c10::DeviceIndex device) {
  return c10::Stream(c10::Stream::UNSAFE, simulated_device(device),
                     streams[static_cast<std::size_t>(device)]);
}

// --- graphs --------------------------------------------------------------------------------------

// What a graph asks for.  While it is recorded, kernels do run, which tells the shapes of their
// results; but all that they have written is taken back at the end.
class Graph final : public DeviceGraph {
 public:
  Graph();
  ~Graph() override;
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void replay() override;

  void add(std::function<void()> work) { work_.push_back(std::move(work)); }
  void add_use(const at::Tensor& tensor, bool writes);
  void note_allocation(const void* begin) { own_.insert(begin); }
  void take_back();

 private:
  void scribble() const;

  std::vector<std::function<void()>> work_;
  std::set<const void*> own_;                  // begins of what was allocated
  std::map<const void*, at::Tensor> tensors_;  // over that
  std::map<const void*, std::pair<at::Tensor, std::vector<char>>> before_;  // of other memory
};

thread_local std::vector<Graph*> recorded_graphs;

bool is_recording() {
  return recorded != nullptr && kernel_depth == 0;
}

void refuse_in_recording(const char* what) {
  TORCH_CHECK(!is_recording(), "simulated device: ", what, " while a graph is recorded");
}

// The host waits for all that the stream was asked to do.
void wait_for(const c10::Stream& stream) {
  refuse_in_recording("waiting for the device");
  count(&DeviceCounts::waits);
  SimulatedMemory::get().arrive(SimulatedMemory::get().times_of(stream));
}

// --- memory --------------------------------------------------------------------------------------

void delete_device_memory(void* begin) {
  SimulatedMemory::get().free(static_cast<char*>(begin));
}

class Allocator final : public c10::DeviceAllocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    if (bytes == 0) {
      return {nullptr, nullptr, &delete_device_memory, simulated_device(selected)};
    }
    count(&DeviceCounts::allocations);
    char* begin = SimulatedMemory::get().allocate(bytes, selected);
    if (recorded != nullptr) {
      recorded->note_allocation(begin);
    }
    return {begin, begin, &delete_device_memory, simulated_device(selected)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &delete_device_memory; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex device) override {
    c10::CachingDeviceAllocator::DeviceStats statistics;
    const auto all = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    for (auto* of_bytes : {&statistics.allocated_bytes, &statistics.reserved_bytes}) {
      (*of_bytes)[all].current = SimulatedMemory::get().in_use(device);
      (*of_bytes)[all].peak = SimulatedMemory::get().peak(device);
    }
    return statistics;
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex device) override {
    SimulatedMemory::get().reset_peak(device);
  }
  std::pair<std::size_t, std::size_t> getMemoryInfo(c10::DeviceIndex device) override {
    const std::int64_t limit = SimulatedMemory::get().limit();
    return {static_cast<std::size_t>(limit - SimulatedMemory::get().in_use(device)),
            static_cast<std::size_t>(limit)};
  }
};
Allocator allocator;
REGISTER_ALLOCATOR(c10::kPrivateUse1, &allocator)

const void* base_of(const at::Tensor& tensor) {
  return tensor.storage().data();
}

void use(const at::Tensor& tensor, bool writes) {
  if (is_recording() && base_of(tensor) != nullptr) {
    recorded->add_use(tensor, writes);
  } else if (kernel_depth == 0 && base_of(tensor) != nullptr) {
    SimulatedMemory::get().use(base_of(tensor), current_stream(tensor.get_device()), writes);
  }
}

// The memory of a device tensor as a CPU tensor, while this lives.
class Opened {
 public:
  explicit Opened(const at::Tensor& tensor) : base_(base_of(tensor)) {
    if (base_ == nullptr) {
      host_ = at::empty(tensor.sizes(), tensor.scalar_type());
      return;
    }
    SimulatedMemory::get().open(base_, +1);
    char* first = static_cast<char*>(const_cast<void*>(base_)) +
                  tensor.storage_offset() * static_cast<std::int64_t>(tensor.itemsize());
    host_ = at::from_blob(first, tensor.sizes(), tensor.strides(),
                          at::TensorOptions().dtype(tensor.scalar_type()));
  }
  ~Opened() {
    if (base_ != nullptr) {
      SimulatedMemory::get().open(base_, -1);
    }
  }
  Opened(const Opened&) = delete;
  Opened& operator=(const Opened&) = delete;
  const at::Tensor& host() const { return host_; }

 private:
  const void* base_;
  at::Tensor host_;
};

Graph::Graph() {
  recorded_graphs.push_back(this);
}

Graph::~Graph() {
  std::erase(recorded_graphs, this);
}

void Graph::add_use(const at::Tensor& tensor, bool writes) {
  const void* base = base_of(tensor);
  if (own_.count(base) > 0) {
    tensors_.try_emplace(base, tensor);
  } else if (writes && before_.count(base) == 0) {
    SimulatedMemory::get().open(base, +1);
    const auto* bytes = static_cast<const char*>(base);
    before_[base] = {tensor, {bytes, bytes + tensor.storage().nbytes()}};
    SimulatedMemory::get().open(base, -1);
  }
  add([tensor, writes] { use(tensor, writes); });
}

void Graph::take_back() {
  for (const auto& [base, kept] : before_) {
    SimulatedMemory::get().open(base, +1);
    std::memcpy(const_cast<void*>(base), kept.second.data(), kept.second.size());
    SimulatedMemory::get().open(base, -1);
  }
  before_.clear();
  scribble();
}

// Fills the memory that was allocated with NaN.
void Graph::scribble() const {
  for (const auto& [base, tensor] : tensors_) {
    SimulatedMemory::get().open(base, +1);
    std::memset(const_cast<void*>(base), 0xff, tensor.storage().nbytes());
    SimulatedMemory::get().open(base, -1);
  }
}

// Graphs share memory: another's results do not outlive this.
void Graph::replay() {
  refuse_in_recording("a replay");
  count_kernel("graph");
  for (const Graph* graph : recorded_graphs) {
    if (graph != this) {
      graph->scribble();
    }
  }
  const at::AutoDispatchBelowADInplaceOrView as_kernels;
  for (const std::function<void()>& work : work_) {
    work();
  }
}

// Writes a kernel's new result over that of its recording, unless they are the same memory.
void overwrite(const at::Tensor& result, const at::Tensor& again) {
  if (result.defined() && base_of(result) != base_of(again)) {
    const InKernel inside;
    const Opened source(again);
    const Opened target(result);
    target.host().copy_(source.host());
  }
}

class Recorder final : public GraphRecorder {
 public:
  std::unique_ptr<DeviceGraph> record(c10::Device device,
                                      const std::function<void()>& work) override;
};

// --- copies --------------------------------------------------------------------------------------

void copy_on_device(const at::Tensor& from, const at::Tensor& to) {
  count_kernel("copy");
  use(from, false);
  use(to, true);
  const auto copy = [from, to] {
    const InKernel inside;
    const Opened source(from);
    const Opened target(to);
    target.host().copy_(source.host());
  };
  copy();
  if (is_recording()) {
    recorded->add(copy);
  }
}

void copy_to_device(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  count(&DeviceCounts::copies_to_device);
  const bool later = non_blocking && is_pinned_memory(from.const_data_ptr());
  if (!later) {
    refuse_in_recording("a copy from pageable memory");
  }
  use(to, true);
  const c10::Stream stream = current_stream(to.get_device());
  const auto copy = [from, to] {
    const InKernel inside;
    const Opened target(to);
    target.host().copy_(from);
  };
  copy();
  if (is_recording()) {
    recorded->add(copy);  // which reads what the host has there by then
    return;
  }
  if (kernel_depth > 0) {
    return;
  }
  if (later) {
    SimulatedMemory::get().watch_source(from, stream);
  } else {
    wait_for(stream);
  }
}

void copy_to_host(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  count(&DeviceCounts::copies_to_host);
  refuse_in_recording("a copy to the host");
  use(from, false);
  const c10::Stream stream = current_stream(from.get_device());
  const bool later = non_blocking && kernel_depth == 0 && to.is_contiguous();
  {
    const InKernel inside;
    const Opened source(from);
    if (later) {
      SimulatedMemory::get().copy_to_host_later(to, source.host().to(to.scalar_type()).clone(),
                                                stream);
    } else {
      to.copy_(source.host());
    }
  }
  if (kernel_depth == 0 && !later) {
    wait_for(stream);
  }
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& dst, bool non_blocking) {
  if (!self.is_privateuseone()) {
    copy_to_device(self, dst, non_blocking);
  } else if (dst.is_privateuseone()) {
    copy_on_device(self, dst);
  } else {
    copy_to_host(self, dst, non_blocking);
  }
  return dst;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& dst) {
  if (self.sizes() != dst.sizes()) {
    dst.resize_(self.sizes());
  }
  return copy_from(self, dst, false);
}

at::Scalar local_scalar(const at::Tensor& self) {
  count(&DeviceCounts::scalars_to_host);
  refuse_in_recording("reading an element");
  use(self, false);
  if (kernel_depth == 0) {
    wait_for(current_stream(self.get_device()));
  }
  const InKernel inside;
  const Opened opened(self);
  return opened.host().item();
}

// --- tensors without arithmetic ------------------------------------------------------------------

constexpr c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

c10::Device device_or_selected(const std::optional<at::Device>& where) {
  return simulated_device(where && where->has_index() ? where->index() : selected);
}

at::Tensor empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> type,
                 std::optional<at::Layout>, std::optional<at::Device> where, std::optional<bool>,
                 std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(device_or_selected(where));
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &allocator, kKeys,
                                   type.value_or(at::kFloat), format);
}

at::Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
                         std::optional<at::ScalarType> type, std::optional<at::Layout>,
                         std::optional<at::Device> where, std::optional<bool>) {
  const c10::DeviceGuard guard(device_or_selected(where));
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size),
                                           C10_AS_INTARRAYREF_SLOW(stride), &allocator, kKeys,
                                           type.value_or(at::kFloat));
}

at::Tensor as_strided(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
                      std::optional<c10::SymInt> offset) {
  return at::native::as_strided_tensorimpl(
      self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
      offset ? std::optional(offset->expect_int()) : std::nullopt);
}

at::Tensor view(const at::Tensor& self, c10::SymIntArrayRef size) {
  return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size));
}

at::Tensor reshape_alias(const at::Tensor& self, c10::SymIntArrayRef size,
                         c10::SymIntArrayRef stride) {
  return at::native::_reshape_alias(self, C10_AS_INTARRAYREF_SLOW(size),
                                    C10_AS_INTARRAYREF_SLOW(stride));
}

at::Tensor unfold(const at::Tensor& self, std::int64_t dimension, std::int64_t size,
                  std::int64_t step) {
  const auto d = static_cast<std::size_t>(at::maybe_wrap_dim(dimension, self.dim()));
  auto sizes = self.sizes().vec();
  auto strides = self.strides().vec();
  sizes.push_back(size);
  strides.push_back(strides[d]);
  sizes[d] = (sizes[d] - size) / step + 1;
  strides[d] *= step;
  return at::native::as_strided_tensorimpl(self, sizes, strides, self.storage_offset());
}

// Sets the size of a tensor that has no elements yet, as results of operators do.
const at::Tensor& resize(const at::Tensor& self, c10::SymIntArrayRef size,
                         std::optional<at::MemoryFormat>) {
  self.unsafeGetTensorImpl()->set_sizes_contiguous(C10_AS_INTARRAYREF_SLOW(size));
  const std::size_t bytes = static_cast<std::size_t>(self.numel()) * self.itemsize();
  if (bytes > self.storage().nbytes()) {
    TORCH_CHECK(self.storage().nbytes() == 0, "simulated device: memory with values does not grow");
    const c10::DeviceGuard guard(self.device());
    self.storage().unsafeGetStorageImpl()->set_data_ptr_noswap(allocator.allocate(bytes));
    self.storage().unsafeGetStorageImpl()->set_nbytes(bytes);
  }
  return self;
}

at::Tensor& set_storage(at::Tensor& self, at::Storage source, c10::SymInt offset,
                        c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  self.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(source));
  self.unsafeGetTensorImpl()->set_sizes_and_strides(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), offset.expect_int());
  return self;
}

// --- operators in general ------------------------------------------------------------------------

// Calls visit(tensor, whether the operator writes it) for the defined tensors among the operator's
// arguments.
template <class Visit>
void for_each_argument(const c10::OperatorHandle& op, torch::jit::Stack* stack,
                       const Visit& visit) {
  const auto& arguments = op.schema().arguments();
  const auto values = torch::jit::last(stack, arguments.size());
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const bool writes =
        arguments[i].alias_info() != nullptr && arguments[i].alias_info()->isWrite();
    const auto visit_defined = [&](const at::Tensor& tensor) {
      if (tensor.defined()) {
        visit(tensor, writes);
      }
    };
    if (values[i].isTensor()) {
      visit_defined(values[i].toTensor());
    } else if (values[i].isTensorList()) {
      for (const at::Tensor& tensor : values[i].toTensorVector()) {
        visit_defined(tensor);
      }
    } else if (values[i].isOptionalTensorList()) {
      for (const auto& tensor : values[i].toOptionalTensorVector()) {
        visit_defined(tensor.value_or(at::Tensor()));
      }
    }
  }
}

void require_one_device(const std::string& name, const at::Tensor& tensor,
                        std::optional<c10::Device>& device) {
  if (tensor.is_cpu() && tensor.dim() == 0) {
    return;  // a number: kernels take it as an argument
  }
  device = device.value_or(tensor.device());
  TORCH_CHECK(tensor.is_privateuseone() && tensor.device() == *device, "simulated device: ", name,
              ": arguments on ", *device, " and ", tensor.device());
}

// Operators with a result whose shape, or value in host memory, depends on elements.
bool reads_elements(const std::string& name) {
  static const std::set<std::string> names = {"aten::equal",         "aten::nonzero",
                                              "aten::masked_select", "aten::is_nonzero",
                                              "aten::_unique2",      "aten::repeat_interleave"};
  return names.count(name) > 0;
}

// CUDA adds rows in no order, which shows where a row is added to more than once.
bool adds_in_no_order(const c10::OperatorHandle& op, const torch::jit::Stack& stack) {
  const std::string& name = op.schema().name();
  if (name == "aten::scatter_add" || name == "aten::scatter_add_" || name == "aten::put_") {
    return true;
  }
  if (name != "aten::index_add" && name != "aten::index_add_") {
    return false;
  }
  // self, dim, index, source, alpha, and out in one overload
  const std::size_t arguments = op.schema().arguments().size();
  const at::Tensor index = torch::jit::peek(stack, 2, arguments).toTensor().view({-1});
  const InKernel inside;
  const Opened source(index);
  std::set<std::int64_t> seen;
  for (std::int64_t i = 0; i < index.numel(); ++i) {
    if (!seen.insert(source.host()[i].item<std::int64_t>()).second) {
      return true;
    }
  }
  return false;
}

// Runs an operator on the CPU, on copies of its arguments.
void fall_back(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const InKernel inside;
  for (auto& value : *stack) {  // the fallback puts results where its first tensor lies
    if (value.isTensor() && value.toTensor().defined() && value.toTensor().is_cpu() &&
        value.toTensor().dim() == 0) {
      value = value.toTensor().to(simulated_device(selected));
    }
  }
  at::native::cpu_fallback(op, stack, /*error_on_views=*/true);
}

std::vector<at::Tensor> results_of(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  std::vector<at::Tensor> results;
  for (const auto& result : torch::jit::last(stack, op.schema().returns().size())) {
    if (result.isTensor() && result.toTensor().defined() && result.toTensor().is_privateuseone()) {
      results.push_back(result.toTensor());
    }
  }
  return results;
}

void run_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const std::string& name = op.schema().name();
  if (kernel_depth == 0) {
    count_kernel(name);
    if (adds_in_no_order(op, *stack)) {
      count_unordered_sum();
    }
    std::optional<c10::Device> device;
    for_each_argument(op, stack, [&](const at::Tensor& tensor, bool writes) {
      require_one_device(name, tensor, device);
      if (tensor.is_privateuseone()) {
        use(tensor, writes);
      }
    });
    if (reads_elements(name)) {
      count(&DeviceCounts::scalars_to_host);
      wait_for(current_stream(device.value_or(simulated_device(selected)).index()));
    }
  }
  torch::jit::Stack arguments;
  if (is_recording()) {
    const auto values = torch::jit::last(stack, op.schema().arguments().size());
    arguments.assign(values.begin(), values.end());
  }
  fall_back(op, stack);
  const std::vector<at::Tensor> results = results_of(op, stack);
  if (is_recording()) {
    recorded->add([op, arguments, results] {
      torch::jit::Stack values = arguments;
      fall_back(op, &values);
      const std::vector<at::Tensor> again = results_of(op, &values);
      for (std::size_t i = 0; i < results.size(); ++i) {
        overwrite(results[i], again.at(i));
      }
    });
  }
  for (const at::Tensor& result : results) {
    use(result, true);
  }
}

// --- operators that CUDA has as one kernel, but the fallback would compose -----------------------

// Runs compute(arguments as CPU tensors), which returns one CPU tensor for each result, as one
// kernel.  It must hold what it needs: a graph runs it again.
template <class Compute>
std::vector<at::Tensor> kernel(const char* name, const std::vector<at::Tensor>& arguments,
                               const Compute& compute) {
  count_kernel(name);
  std::optional<c10::Device> device;
  for (const at::Tensor& argument : arguments) {
    if (argument.defined()) {
      require_one_device(name, argument, device);
      use(argument, false);
    }
  }
  const auto run = [arguments, compute, where = device.value()] {
    const InKernel inside;
    std::vector<std::unique_ptr<Opened>> opened;
    std::vector<at::Tensor> on_host;
    for (const at::Tensor& argument : arguments) {
      if (argument.defined()) {
        opened.push_back(std::make_unique<Opened>(argument));
      }
      on_host.push_back(argument.defined() ? opened.back()->host() : at::Tensor());
    }
    std::vector<at::Tensor> results;
    for (const at::Tensor& result : compute(on_host)) {
      results.push_back(result.defined() ? result.to(where) : result);
    }
    return results;
  };
  std::vector<at::Tensor> results = run();
  if (is_recording()) {
    recorded->add([run, results] {
      const std::vector<at::Tensor> again = run();
      for (std::size_t i = 0; i < results.size(); ++i) {
        overwrite(results[i], again[i]);
      }
    });
  }
  for (const at::Tensor& result : results) {
    if (result.defined()) {
      use(result, true);
    }
  }
  return results;
}

using Tensors = std::vector<at::Tensor>;

void require_half_products(const at::Tensor& a, const at::Tensor& b, at::ScalarType type) {
  TORCH_CHECK(
      a.scalar_type() == b.scalar_type() && a.scalar_type() == at::kBFloat16 && type == at::kFloat,
      "simulated device: CUDA multiplies two matrices of one half-precision type into float32");
}

at::Tensor mm_to_type(const at::Tensor& self, const at::Tensor& other, at::ScalarType type) {
  require_half_products(self, other, type);
  return kernel("aten::mm", {self, other},
                [=](const Tensors& x) { return Tensors{at::mm(x[0].to(type), x[1].to(type))}; })[0];
}

at::Tensor addmm_to_type(const at::Tensor& self, const at::Tensor& a, const at::Tensor& b,
                         at::ScalarType type, const at::Scalar& beta, const at::Scalar& alpha) {
  require_half_products(a, b, type);
  return kernel("aten::addmm", {self, a, b}, [=](const Tensors& x) {
    return Tensors{at::addmm(x[0].to(type), x[1].to(type), x[2].to(type), beta, alpha)};
  })[0];
}

at::Tensor silu_backward(const at::Tensor& gradient, const at::Tensor& self) {
  return kernel("aten::silu_backward", {gradient, self},
                [](const Tensors& x) { return Tensors{at::silu_backward(x[0], x[1])}; })[0];
}

// As on CUDA, sums are formed in float32 where the elements are narrower, and the scale is of that
// type.
at::Tensor to_sum_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
}

std::tuple<at::Tensor, at::Tensor> fused_rms_norm(const at::Tensor& input, at::IntArrayRef,
                                                  const std::optional<at::Tensor>& weight,
                                                  std::optional<double> epsilon) {
  const Tensors results = kernel(
      "aten::_fused_rms_norm", {input, weight.value_or(at::Tensor())}, [=](const Tensors& x) {
        const at::Tensor wide = to_sum_type(x[0]);
        const at::Tensor scale = at::rsqrt(at::mean(wide * wide, -1, true) + epsilon.value());
        const at::Tensor normed = wide * scale;
        return Tensors{(x[1].defined() ? normed * x[1] : normed).to(x[0].scalar_type()), scale};
      });
  return {results[0], results[1]};
}

std::tuple<at::Tensor, at::Tensor> fused_rms_norm_backward(const at::Tensor& gradient,
                                                           const at::Tensor& input, at::IntArrayRef,
                                                           const at::Tensor& scale,
                                                           const std::optional<at::Tensor>& weight,
                                                           std::array<bool, 2>) {
  const Tensors results =
      kernel("aten::_fused_rms_norm_backward",
             {gradient, input, scale, weight.value_or(at::Tensor())}, [=](const Tensors& x) {
               const at::Tensor wide = to_sum_type(x[1]);
               const at::Tensor u = x[3].defined() ? to_sum_type(x[0]) * x[3] : to_sum_type(x[0]);
               const at::Tensor projection = at::mean(u * wide, -1, true) * x[2] * x[2];
               return Tensors{((u - wide * projection) * x[2]).to(x[1].scalar_type())};
             });
  return {results[0], at::Tensor()};
}

// Our own kernels, compiled for the CPU.
class OwnKernels final : public KernelRunner {
 public:
  void run(const KernelCall& call) override {
    count_kernel(call.kernel);
    std::optional<c10::Device> device;
    for (const at::Tensor* tensor : call.reads) {
      if (tensor != nullptr) {
        require_one_device(call.kernel, *tensor, device);
        use(*tensor, false);
      }
    }
    for (const at::Tensor* tensor : call.writes) {
      if (tensor != nullptr) {
        require_one_device(call.kernel, *tensor, device);
        use(*tensor, true);
      }
    }
    run_opened(call);
    if (is_recording()) {
      recorded->add([kept = std::make_shared<KeptCall>(call)] { run_opened(kept->call()); });
    }
  }

 private:
  static void run_opened(const KernelCall& call) {
    std::vector<std::unique_ptr<Opened>> opened;
    const auto open = [&](const at::Tensor* tensor) {
      if (tensor != nullptr) {
        opened.push_back(std::make_unique<Opened>(*tensor));
      }
    };
    std::for_each(call.reads.begin(), call.reads.end(), open);
    std::for_each(call.writes.begin(), call.writes.end(), open);
    run_on_host(call);
  }

  // A call with the arguments and tensors that it points to.
  class KeptCall {
   public:
    explicit KeptCall(const KernelCall& call) : call_(call) {
      const auto* bytes = static_cast<const char*>(call.arguments);
      arguments_.assign(bytes, bytes + call.argument_bytes);
      for (std::size_t i = 0; i < reads_.size(); ++i) {
        reads_[i] = call.reads[i] != nullptr ? *call.reads[i] : at::Tensor();
      }
      for (std::size_t i = 0; i < writes_.size(); ++i) {
        writes_[i] = call.writes[i] != nullptr ? *call.writes[i] : at::Tensor();
      }
    }

    KernelCall call() const {
      KernelCall call = call_;
      call.arguments = arguments_.data();
      for (std::size_t i = 0; i < reads_.size(); ++i) {
        call.reads[i] = reads_[i].defined() ? &reads_[i] : nullptr;
      }
      for (std::size_t i = 0; i < writes_.size(); ++i) {
        call.writes[i] = writes_[i].defined() ? &writes_[i] : nullptr;
      }
      return call;
    }

   private:
    KernelCall call_;
    std::vector<char> arguments_;
    std::array<at::Tensor, std::tuple_size_v<decltype(KernelCall::reads)>> reads_;
    std::array<at::Tensor, std::tuple_size_v<decltype(KernelCall::writes)>> writes_;
  };
};

// As CUDA chooses for attention with a mask: the memory-efficient kernel, but float64 only
// composed.
std::int64_t choose_attention(const at::Tensor& query, const at::Tensor&, const at::Tensor&,
                              const std::optional<at::Tensor>&, double, bool, std::optional<double>,
                              bool) {
  return static_cast<std::int64_t>(query.scalar_type() == at::kDouble
                                       ? sdp::SDPBackend::math
                                       : sdp::SDPBackend::efficient_attention);
}

double scale_of(const at::Tensor& query, std::optional<double> scale) {
  return scale.value_or(1 / std::sqrt(static_cast<double>(query.size(-1))));
}

at::Tensor scores_of(const at::Tensor& query, const at::Tensor& key, const at::Tensor& bias,
                     double scale) {
  const at::Tensor scores = at::matmul(query, key.transpose(-2, -1)).mul_(scale);
  return bias.defined() ? scores + bias : scores;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> attention(
    const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
    const std::optional<at::Tensor>& bias, bool, double, bool, std::optional<double> scale) {
  const Tensors results =
      kernel("attention", {query, key, value, bias.value_or(at::Tensor())}, [=](const Tensors& x) {
        const at::Tensor scores = scores_of(x[0], x[1], x[3], scale_of(x[0], scale));
        return Tensors{at::matmul(at::softmax(scores, -1), x[2]), at::logsumexp(scores, {-1}),
                       at::zeros({}, at::kLong), at::zeros({}, at::kLong)};
      });
  return {results[0], results[1], results[2], results[3]};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> attention_backward(
    const at::Tensor& gradient, const at::Tensor& query, const at::Tensor& key,
    const at::Tensor& value, const at::Tensor& bias, const at::Tensor& out, const at::Tensor& sums,
    const at::Tensor&, const at::Tensor&, double, std::array<bool, 4>, bool,
    std::optional<double> scale) {
  const Tensors results = kernel(
      "attention_backward", {gradient, query, key, value, bias, out, sums}, [=](const Tensors& x) {
        const double factor = scale_of(x[1], scale);
        const at::Tensor weights =
            (scores_of(x[1], x[2], x[4], factor) - x[6].unsqueeze(-1)).exp_();
        const at::Tensor d_weights = at::matmul(x[0], x[3].transpose(-2, -1));
        const at::Tensor d_scores = weights * (d_weights - (x[0] * x[5]).sum(-1, true)) * factor;
        return Tensors{at::matmul(d_scores, x[2]), at::matmul(d_scores.transpose(-2, -1), x[1]),
                       at::matmul(weights.transpose(-2, -1), x[0])};
      });
  return {results[0], results[1], results[2], at::Tensor()};
}

// Flash attention has the limits that libtorch 2.11 states for CUDA.
void require_flash_operands(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& query_bounds, const at::Tensor& key_bounds) {
  for (const at::Tensor& x : {q, k, v}) {
    TORCH_CHECK(x.dim() == 3 && x.scalar_type() == at::kBFloat16 && x.stride(-1) == 1,
                "simulated device: flash attention takes dense heads of half-precision numbers");
    constexpr std::int64_t kAlignment = 8;  // of elements, to read 16 bytes at once
    TORCH_CHECK(x.stride(0) % kAlignment == 0 && x.stride(1) % kAlignment == 0 &&
                    x.storage_offset() % kAlignment == 0,
                "simulated device: flash attention: an unaligned row");
  }
  TORCH_CHECK(q.size(2) % 8 == 0 && q.size(2) <= 256 && k.size(2) == q.size(2) &&
                  q.size(1) % k.size(1) == 0 && k.sizes() == v.sizes(),
              "simulated device: flash attention: heads of a wrong size or number");
  for (const at::Tensor& bounds : {query_bounds, key_bounds}) {
    TORCH_CHECK(bounds.scalar_type() == at::kInt && bounds.is_contiguous() && bounds.size(0) > 1 &&
                    bounds.sizes() == query_bounds.sizes(),
                "simulated device: flash attention takes bounds of at least one sequence in int32");
  }
}

std::int64_t window_of(const std::optional<c10::SymInt>& left) {
  return left ? left->expect_int() : -1;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> flash_attention(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
    const std::optional<at::Tensor>& query_bounds, const std::optional<at::Tensor>& key_bounds,
    c10::SymInt most_queries, c10::SymInt, double dropout, bool is_causal, bool,
    std::optional<double> scale, std::optional<c10::SymInt> left, std::optional<c10::SymInt> right,
    const std::optional<at::Tensor>&, const std::optional<at::Tensor>&) {
  require_flash_operands(q, k, v, query_bounds.value(), key_bounds.value());
  TORCH_CHECK(dropout == 0 && is_causal && !right && most_queries.expect_int() > 1,
              "simulated device: flash attention with causality, of more than one query, only");
  const Tensors results =
      kernel("flash_attention", {q, k, v, *query_bounds, *key_bounds}, [=](const Tensors& x) {
        const auto [out, log_sums] =
            flash_forward({x[0], x[1], x[2], x[3], x[4], scale_of(q, scale), window_of(left)});
        return Tensors{out, log_sums};
      });
  const auto random = [&](at::IntArrayRef sizes) {
    return at::empty(sizes, q.options().dtype(at::kUInt64));
  };
  return {results[0], results[1], random({2}), random({}), at::Tensor()};
}

// The launches and the memory of CUDA's: sums of products for the softmax's gradient, the pass
// itself, the queries' gradient from the parts that its blocks have added up, and the sums over the
// query heads of a key head.
std::tuple<at::Tensor, at::Tensor, at::Tensor> flash_attention_backward(
    const at::Tensor& d, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
    const at::Tensor& out, const at::Tensor& log_sums, const at::Tensor& query_bounds,
    const at::Tensor& key_bounds, c10::SymInt, c10::SymInt, double, bool is_causal,
    const at::Tensor&, const at::Tensor&, std::optional<double> scale,
    std::optional<c10::SymInt> left, std::optional<c10::SymInt>) {
  require_flash_operands(q, k, v, query_bounds, key_bounds);
  TORCH_CHECK(is_causal && d.scalar_type() == at::kBFloat16 && d.is_contiguous(),
              "simulated device: flash attention: a gradient of another type, or not dense");
  TORCH_CHECK(at::globalContext().deterministicAlgorithms() &&
                  !at::globalContext().deterministicAlgorithmsWarnOnly(),
              "simulated device: flash attention's gradient would be added atomically");
  constexpr std::int64_t kMultiprocessors = 132;  // of an H100
  constexpr std::int64_t kBlock = 128;            // queries of a block at most
  const std::int64_t heads = q.size(1);
  const std::int64_t spans = query_bounds.size(0) - 1;
  const std::int64_t rows = q.size(0) + kBlock * spans;
  const std::int64_t step = q.size(2) <= 128 ? 32 : 64;
  const std::int64_t size = (q.size(2) + step - 1) / step * step;
  const std::int64_t splits = (kMultiprocessors + spans * heads - 1) / (spans * heads);
  const auto float32 = q.options().dtype(at::kFloat);
  const at::Tensor sums = at::empty({heads, rows}, float32);
  const at::Tensor parts = at::zeros({splits, rows, heads, size}, float32);
  Tensors expanded;
  if (heads != k.size(1)) {
    expanded = {at::empty({k.size(0), heads, q.size(2)}, q.options()),
                at::empty({k.size(0), heads, q.size(2)}, q.options())};
  }
  count_kernel("flash_attention_backward: sums of products");
  const Tensors results = kernel(
      "flash_attention_backward", {d, q, k, v, out, log_sums, query_bounds, key_bounds},
      [=](const Tensors& x) {
        const auto [dq, dk, dv] = flash_backward(
            {x[1], x[2], x[3], x[6], x[7], scale_of(q, scale), window_of(left)}, x[4], x[5], x[0]);
        return Tensors{dq, dk, dv};
      });
  count_kernel("flash_attention_backward: parts of queries");
  for (std::size_t i = 0; i < expanded.size(); ++i) {
    count_kernel("flash_attention_backward: sums of heads");
  }
  return {results[0], results[1], results[2]};
}

// --- the device ----------------------------------------------------------------------------------

std::atomic<c10::StreamId> next_stream{1};

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::kPrivateUse1; }
  c10::Device exchangeDevice(c10::Device to) const override {
    const c10::Device before = getDevice();
    setDevice(to);
    return before;
  }
  c10::Device getDevice() const override { return simulated_device(selected); }
  void setDevice(c10::Device to) const override {
    selected = to.has_index() ? to.index() : selected;
  }
  void uncheckedSetDevice(c10::Device to) const noexcept override { selected = to.index(); }
  c10::DeviceIndex deviceCount() const noexcept override { return kSimulatedDevices; }

  c10::Stream getStream(c10::Device where) const override {
    return current_stream(where.has_index() ? where.index() : selected);
  }
  c10::Stream getDefaultStream(c10::Device where) const override {
    return c10::Stream(c10::Stream::DEFAULT, where);
  }
  c10::Stream getNewStream(c10::Device where, int) const override {
    return c10::Stream(c10::Stream::UNSAFE, where, next_stream++);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device where, bool) const override {
    return getNewStream(where, 0);
  }
  c10::Stream exchangeStream(c10::Stream to) const override {
    const c10::Stream before = current_stream(to.device_index());
    streams[static_cast<std::size_t>(to.device_index())] = to.id();
    return before;
  }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream& stream) const override { wait_for(stream); }
  void synchronizeDevice(c10::DeviceIndex device) const override {
    wait_for(current_stream(device));
  }

  // An event is the times of the stream when it was recorded.
  void record(void** event, const c10::Stream& stream, c10::DeviceIndex,
              c10::EventFlag) const override {
    if (*event == nullptr) {
      *event = new StreamTimes;
    }
    *static_cast<StreamTimes*>(*event) = SimulatedMemory::get().times_of(stream);
  }
  void block(void* event, const c10::Stream& stream) const override {
    refuse_in_recording("waiting for another stream");
    SimulatedMemory::get().order_after(*static_cast<StreamTimes*>(event), stream);
  }
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void* event) const override {
    refuse_in_recording("waiting for an event");
    count(&DeviceCounts::waits);
    SimulatedMemory::get().arrive(*static_cast<StreamTimes*>(event));
  }
  void destroyEvent(void* event, c10::DeviceIndex) const noexcept override {
    delete static_cast<StreamTimes*>(event);
  }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

std::unique_ptr<DeviceGraph> Recorder::record(c10::Device device,
                                              const std::function<void()>& work) {
  const c10::StreamGuard another_stream(Guard().getNewStream(device, 0));
  auto graph = std::make_unique<Graph>();
  recorded = graph.get();
  const auto end = [&] {
    recorded = nullptr;
    graph->take_back();
  };
  try {
    work();
  } catch (...) {
    end();
    throw;
  }
  end();
  return graph;
}

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  void init() const override {}
  c10::DeviceIndex deviceCount() const override { return kSimulatedDevices; }
  c10::DeviceIndex getCurrentDevice() const override { return selected; }
  void setCurrentDevice(c10::DeviceIndex device) const override { selected = device; }
  bool isPinnedPtr(const void* address) const override { return is_pinned_memory(address); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_memory(); }
  // at::manual_seed() asks for it; random numbers are not drawn on the device.
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    static const at::Generator generator = at::detail::createCPUGenerator();
    return generator;
  }
};

const bool kRegistered = [] {
  c10::register_privateuse1_backend("simulated");
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  register_kernels(c10::kPrivateUse1, new OwnKernels);
  register_flash_attention(c10::kPrivateUse1, 256);
  register_recorder(c10::kPrivateUse1, new Recorder);
  return true;
}();

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("as_strided", &as_strided);
  library.impl("view", &view);
  library.impl("_reshape_alias", &reshape_alias);
  library.impl("unfold", &unfold);
  library.impl("resize_", &resize);
  library.impl("set_.source_Storage_storage_offset", &set_storage);
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
  library.impl("_local_scalar_dense", &local_scalar);
  library.impl("silu_backward", &silu_backward);
  library.impl("mm.dtype", &mm_to_type);
  library.impl("addmm.dtype", &addmm_to_type);
  library.impl("_fused_rms_norm", &fused_rms_norm);
  library.impl("_fused_rms_norm_backward", &fused_rms_norm_backward);
  library.impl("_flash_attention_forward", &flash_attention);
  library.impl("_flash_attention_backward", &flash_attention_backward);
  library.impl("_scaled_dot_product_efficient_attention", &attention);
  library.impl("_scaled_dot_product_efficient_attention_backward", &attention_backward);
}

}  // namespace

DeviceCounts operator-(const DeviceCounts& later, const DeviceCounts& earlier) {
  return {later.kernels - earlier.kernels,
          later.copies_to_device - earlier.copies_to_device,
          later.copies_to_host - earlier.copies_to_host,
          later.scalars_to_host - earlier.scalars_to_host,
          later.waits - earlier.waits,
          later.allocations - earlier.allocations};
}

DeviceCounts device_counts() {
  return counts;
}

std::map<std::string, std::int64_t> device_kernels() {
  return kernels;
}

Uncounted::Uncounted() {
  ++uncounted_depth;
}

Uncounted::~Uncounted() {
  --uncounted_depth;
}

void run_on_stream(const at::Tensor& tensor, const std::function<void(const at::Tensor&)>& work) {
  refuse_in_recording("work from outside of it");
  use(tensor, true);
  const InKernel inside;
  const Opened opened(tensor);
  work(opened.host());
}

void set_device_memory(std::int64_t bytes) {
  SimulatedMemory::get().set_limit(bytes);
}

std::int64_t device_bytes_in_use(int index) {
  return SimulatedMemory::get().in_use(static_cast<c10::DeviceIndex>(index));
}

std::int64_t device_bytes_at_peak(int index) {
  return SimulatedMemory::get().peak(static_cast<c10::DeviceIndex>(index));
}

}  // namespace bipo::testing

namespace at::native {
REGISTER_PRIVATEUSE1_DISPATCH(_fused_sdp_choice_stub, &bipo::testing::choose_attention)
}  // namespace at::native
