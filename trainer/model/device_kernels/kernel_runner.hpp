// Who runs the kernels of device_kernels.cuh, and whether they are run at all.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <array>
#include <cstdint>
#include <string>

namespace bipo {

// One launch.  The struct of arguments is that of the kernel in device_kernels.cuh; the tensors are
// those that it points into (null: none), dense, on one device, and stay alive during the call.
struct KernelCall {
  const char* kernel = nullptr;  // "norm"
  at::ScalarType type = at::kFloat;
  std::int64_t rows = 0;  // not 0
  int threads = 0;        // for each row, a power of 2
  const void* arguments = nullptr;
  std::array<const at::Tensor*, 7> reads{};
  std::array<const at::Tensor*, 3> writes{};
};

// Runs kernels on the devices of one kind, in the order of the device's current stream.
class KernelRunner {
 public:
  virtual ~KernelRunner() = default;
  virtual void run(const KernelCall& call) = 0;
};

// Makes `runner` that of the devices of this kind; it must live on.  Null: there is none (again).
void register_kernels(c10::DeviceType type, KernelRunner* runner);

// Which kernels operators run: auto takes our own where a runner is registered for the device, else
// libtorch's.
enum class KernelChoice { kAuto, kComposed, kCompiled };

// Makes the choice for the process, and loads our kernels for the selected `device` where they are
// chosen and it is one of CUDA's.  Returns what was chosen, and for auto why not our own, as one
// line; empty on a CPU.  Throws UserError for kCompiled where they cannot be had.
std::string choose_kernels(KernelChoice choice, c10::Device device);

// Returns the runner for tensors on `device`, null where libtorch's kernels are chosen: the one
// place that decides.
KernelRunner* kernels_for(c10::Device device);

}  // namespace bipo
