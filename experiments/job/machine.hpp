// Chooses what a rank may use of its machine: cores, memory, device.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <optional>
#include <string>

#include "experiments/settings/settings.hpp"

namespace bipo {

struct ThreadChoice {
  std::int64_t threads = 1;
  std::string reason;  // "--threads", "OMP_NUM_THREADS", "2 cores / 1 rank", ...
};

// Returns a warning where this process can run on fewer cores than it is to have threads; else
// nothing.
std::optional<std::string> thread_warning(const ThreadChoice& choice);

// Returns --threads, else OMP_NUM_THREADS, else a share of the `node_cores` on which the node's
// `local_ranks` may run; never more than the cores this process is bound to.
ThreadChoice choose_threads(std::optional<std::int64_t> requested, int local_ranks, int node_cores);

// Returns the device that --device names (auto: CUDA if the build and the machine have it); with
// CUDA, the one of `local_rank`.  Throws UserError if CUDA is requested but missing, has fewer
// devices than ranks, or (with auto, too) has a driver whose devices cannot be used.
c10::Device choose_device(DeviceKind kind, int local_rank, int local_ranks);

// Returns the bytes free for one of `local_ranks` ranks: a share of the node's memory, within the
// limits of this process's control groups, or the memory of the rank's own device.
std::uint64_t memory_per_rank(c10::Device device, int local_ranks);

// Throws UserError if `needed` exceeds `available`, both bytes of one rank; `what` begins the
// message: "the model's weights take".
void require_memory(const std::string& what, std::uint64_t needed, std::uint64_t available,
                    std::int64_t tp);

// Keeps freed memory for later allocations: returning it and taking it again, page by page, costs a
// noticeable part of a step on a CPU.
void keep_freed_memory();

}  // namespace bipo
