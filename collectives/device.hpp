// What the program asks of the device that tensors live on, whatever its kind: the one place that
// knows how.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <optional>

namespace bipo {

// Returns the kind of accelerator that this process can use, if there is one: CUDA devices, in a
// build for them.
std::optional<c10::DeviceType> accelerator_type();

// Returns how many devices of that kind are visible; 0 without one.
int accelerator_count();

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

}  // namespace bipo
