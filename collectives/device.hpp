// What the program asks of the device that tensors live on, whatever its kind: the one place that
// knows how.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace bipo {

// Returns the kind of accelerator that this process can use, if there is one: CUDA devices, in a
// build for them.
std::optional<c10::DeviceType> accelerator_type();

// Returns how many devices of that kind are visible; 0 without one.
int accelerator_count();

// Returns why no device can be used although a driver is there: "the NVIDIA driver supports CUDA
// 12.2, ..."; "" where nothing is wrong, or there is no driver.  libtorch itself counts no device
// then, which looks like a machine without GPUs.
std::string accelerator_fault();

// Returns what an exception of libtorch says, without the stack; where a device had no memory left,
// with what to do.
std::string message_of(const c10::Error& error);

// Makes `device` the target of what this thread asks of accelerators.  On a CPU these four do
// nothing.
void select_device(c10::Device device);

// Waits until `device` has done all that it was asked.
void synchronize_device(c10::Device device);

// Gives memory that libtorch keeps for later allocations back to the device.
void release_unused_device_memory(c10::Device device);

void reset_peak_device_memory(c10::Device device);

// Return bytes of an accelerator: free now, and reserved at most since the last reset.
std::uint64_t free_device_memory(c10::Device device);
std::uint64_t peak_device_memory(c10::Device device);

// A tensor on its way to a device.
class Arrival {
 public:
  Arrival() = default;

  // Returns the tensor for the current stream, which waits until it is there; the host does not.
  at::Tensor receive() const;

 private:
  friend class CopyStream;
  at::Tensor tensor_;
  std::shared_ptr<const c10::Event> sent_;
};

// A stream of an accelerator beside the current one, for copies that travel while the device works.
class CopyStream {
 public:
  explicit CopyStream(c10::Device device);

  // Starts the copy of a tensor in pinned memory, which libtorch keeps until then.
  Arrival send(const at::Tensor& pinned) const;

 private:
  c10::Stream stream_;
};

}  // namespace bipo
