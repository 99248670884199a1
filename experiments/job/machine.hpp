// What a rank may use of its machine: cores, memory, device.
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

// --threads, else OMP_NUM_THREADS, else a share of the `node_cores` that the node's `local_ranks`
// may run on, and never more than the cores this process is bound to.
ThreadChoice choose_threads(std::optional<std::int64_t> requested, int local_ranks, int node_cores);

// The device named by --device (auto: CUDA where the build and the machine have it); with CUDA,
// that of `local_rank`.  Throws UserError when CUDA is asked for and not there, or has fewer
// devices than ranks.
c10::Device choose_device(DeviceKind kind, int local_rank, int local_ranks);

// Makes `device` the one that CUDA calls of this thread go to.
void select_device(c10::Device device);

// Bytes free for one of `local_ranks` ranks: of the node's memory, within the limits of this
// process's control groups, or of the rank's own CUDA device.
std::uint64_t memory_per_rank(c10::Device device, int local_ranks);

// Throws UserError where `needed` bytes are more than the `available` ones of a rank; `what` takes
// them: "the model's weights take".
void require_memory(const std::string& what, std::uint64_t needed, std::uint64_t available,
                    std::int64_t tp);

// Keeps freed memory for the next allocation: giving it back and taking it again, page by page, is
// a noticeable part of a step on a CPU.
void keep_freed_memory();

}  // namespace bipo
