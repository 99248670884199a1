// An accelerator without hardware, on libtorch's PrivateUse1 key, for tests of what must also run
// where device memory is not host memory.  A program that links simulated_device has it; nothing is
// to be called first.
//
// Device memory is closed to the host: a pointer into it that is followed outside of the device's
// own kernels and copies ends the program with a message and the stack.  New memory is full of NaN,
// freed memory is unmapped.  An operator whose arguments lie on different devices throws, and so
// does one that uses what another stream has written or reads without an event between them.  An
// asynchronous copy to the host arrives at a synchronisation: before that its target is full of
// NaN.  Where the host changes the pinned source of an asynchronous copy before a synchronisation,
// that synchronisation throws.
//
// A graph that is recorded (device_graph.hpp) holds the calls of kernels and their memory, and runs
// them again; nothing that ran while it was recorded is left.  In a recording, what CUDA forbids
// there throws.  As graphs share memory on CUDA, a replay fills that of the thread's other graphs
// with NaN, their results too.  What it cannot show: that their memory is the largest one's only.
//
// Kernels are the CPU's, our own ones too (host_kernels.hpp).  What this device cannot show: the
// numerics and the time of CUDA's kernels, element types that they lack, the order of atomic
// additions, and NCCL.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>

namespace bipo::testing {

// The program has four of them.
inline c10::Device simulated_device(int index = 0) {
  return {c10::kPrivateUse1, static_cast<c10::DeviceIndex>(index)};
}

// What the calling thread asked of its devices.
struct DeviceCounts {
  std::int64_t kernels = 0;           // launches, copies on the device among them
  std::int64_t copies_to_device = 0;  // from the host
  std::int64_t copies_to_host = 0;
  std::int64_t scalars_to_host =
      0;                   // elements, and operators whose result's shape depends on values
  std::int64_t waits = 0;  // until the device has done what was asked of it: in copies from or to
                           // pageable memory, for scalars, and synchronisations
  std::int64_t allocations = 0;

  std::int64_t host_reads() const { return copies_to_host + scalars_to_host; }
};
DeviceCounts operator-(const DeviceCounts& later, const DeviceCounts& earlier);
DeviceCounts device_counts();

// The calling thread's kernels by operator; the replay of a graph is one, "graph".  kUnorderedSum
// counts those that would add to a place more than once, in no order, on CUDA.
constexpr const char* kUnorderedSum = "sums in no order";
std::map<std::string, std::int64_t> device_kernels();

// What the calling thread asks of its devices meanwhile is not counted.
class Uncounted {
 public:
  Uncounted();
  ~Uncounted();
  Uncounted(const Uncounted&) = delete;
  Uncounted& operator=(const Uncounted&) = delete;
};

// Lets `work` change the elements of a device tensor, which it sees as a CPU tensor, as the next
// operation of the current stream.  It counts as nothing, and nothing is waited for.
void run_on_stream(const at::Tensor& tensor, const std::function<void(const at::Tensor&)>& work);

// Gives every device so many bytes; an allocation beyond them throws c10::OutOfMemoryError.
void set_device_memory(std::int64_t bytes);

// Bytes that are allocated on a device, now and at most since the last reset of its statistics.
std::int64_t device_bytes_in_use(int index = 0);
std::int64_t device_bytes_at_peak(int index = 0);

}  // namespace bipo::testing
