// Where the ranks of a job compute, and in which type.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <optional>
#include <string>

#include "collectives/session.hpp"
#include "collectives/topology.hpp"
#include "experiments/job/machine.hpp"
#include "experiments/settings/settings.hpp"
#include "trainer/cost/cost.hpp"
#include "trainer/model/architecture/config.hpp"

namespace bipo {

// MachineOptions with every `auto` resolved, for one rank.
struct Computation {
  Topology topology;              // arranges the ranks that work together
  c10::Device device{c10::kCPU};  // selected
  c10::ScalarType product_type = c10::kFloat;
  Dtype dtype = Dtype::kFp32;  // used in products
  DeviceKind kind = DeviceKind::kCpu;
  bool emulated = false;  // bf16 products are computed in fp32
  std::string backend;    // for collectives: "self", "mpi", "nccl"
  std::string kernels;    // whose, on a device: "compiled for sm_90 by NVRTC 13.0, flash
                          // attention", or why attention is composed; the same on all ranks that
                          // share a model
  bool flash = false;     // packed rows attend by flash attention where the model allows it
  ThreadChoice threads;
};

// Arranges the session's ranks as the options request; without --dp, with `default_dp` replicas or
// as many as there are ranks for.  As many cells train at the same time as there are ranks for.
// Throws UserError.
Topology arrange_ranks(const MachineOptions& options, std::optional<int> default_dp,
                       const Session& session);

// Resolve auto: products are bf16 on CUDA and fp32 on CPUs, caches are fp32.
Dtype effective_dtype(Dtype dtype, bool accelerated);
c10::ScalarType cache_type(Dtype cache_dtype);

// Resolves the options for this rank and a model, and selects its device; with --deterministic,
// kernels are deterministic from here on; loads our own kernels where they are chosen.  Throws
// UserError as choose_device() and choose_kernels() do, and where --attention flash is given and
// device or model do not allow it.
Computation choose_computation(const MachineOptions& options, const ModelConfig& config,
                               const Topology& topology, const Session& session);

// Returns the storage of a model that is computed so; `bf16_cache`: kept activations are bfloat16.
ElementBytes element_bytes(const Computation& computation, bool bf16_cache = false);

// Writes the resolved values back into `options`, so that they describe the computation.
void resolve(const Computation& computation, MachineOptions& options);

}  // namespace bipo
