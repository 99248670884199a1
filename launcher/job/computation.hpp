// Where a rank computes, and in which type.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <optional>
#include <string>

#include "collectives/session.hpp"
#include "collectives/topology.hpp"
#include "launcher/options/options.hpp"

namespace bipo {

struct Computation {
  c10::Device device{c10::kCPU};  // selected
  c10::ScalarType product_type = c10::kFloat;
  std::string dtype;        // of the products: "fp32", "bf16"
  std::string device_name;  // "cpu", "cuda"
  std::string backend;      // of the collectives: "self", "mpi", "nccl"
};

// The session's ranks as the options want them; without --dp, `default_dp` or as many replicas as
// there are ranks for.  As many cells are in flight as that leaves ranks for.  Throws UserError.
Topology arrange_ranks(const MachineOptions& options, std::optional<int> default_dp,
                       const Session& session);

// --dtype with auto resolved: bf16 on CUDA, fp32 on CPUs.
std::string effective_dtype(const std::string& dtype, bool cuda);

// Resolves the options for this rank and makes its device the current one; with --deterministic,
// kernels are deterministic from here on.  `topology`: of the ranks that train together.  Throws
// UserError as choose_device() does.
Computation choose_computation(const MachineOptions& options, const Topology& topology,
                               const Session& session);

}  // namespace bipo
