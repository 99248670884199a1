// Who runs the kernels of device_kernels.cuh, and whether they are run at all; likewise flash
// attention, which is libtorch's.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <array>
#include <cstddef>
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
  std::size_t argument_bytes = 0;
  std::array<const at::Tensor*, 16> reads{};
  std::array<const at::Tensor*, 4> writes{};
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

// How packed rows attend on a device.  auto takes libtorch's flash attention where device and model
// allow it (runs_flash_attention() in device_attention.hpp).
enum class AttentionChoice { kAuto, kComposed, kFlash };

// Makes the choice for the process.  Throws UserError for kFlash where the selected `device`, or
// `product_type`, has no flash attention.
void choose_attention(AttentionChoice choice, c10::Device device, at::ScalarType product_type);
AttentionChoice chosen_attention();

// Says that devices of this kind have flash attention for heads of so many numbers at most, forward
// and backward; 0: they have not (again).
void register_flash_attention(c10::DeviceType type, std::int64_t largest_head);

// The largest head that flash attention takes on the GPUs that have most of it.
inline constexpr std::int64_t kLargestFlashHead = 256;

// Returns the largest head that flash attention takes on `device`; 0: it has none, or our own
// kernels, which bring its operands in order, do not run there.
std::int64_t largest_flash_head(c10::Device device);

}  // namespace bipo
