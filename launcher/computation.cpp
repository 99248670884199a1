#include "launcher/computation.hpp"

#include <ATen/Context.h>

#include <cstdlib>

#include "launcher/machine.hpp"

namespace bipo {
namespace {

// To be called before a device is used: cuBLAS reads its variable then.
void use_deterministic_kernels() {
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
}

}  // namespace

std::string effective_dtype(const std::string& dtype, bool cuda) {
  return dtype != "auto" ? dtype : cuda ? "bf16" : "fp32";
}

Computation choose_computation(const MachineOptions& options, const Topology& topology,
                               const Session& session) {
  if (options.deterministic) {
    use_deterministic_kernels();
  }
  Computation computation;
  computation.device = choose_device(options.device, session.local_rank(), session.local_size());
  select_device(computation.device);
  const bool cuda = computation.device.is_cuda();
  computation.dtype = effective_dtype(options.dtype, cuda);
  computation.product_type = computation.dtype == "bf16" ? c10::kBFloat16 : c10::kFloat;
  computation.device_name = cuda ? "cuda" : "cpu";
  computation.backend = topology.world() == 1 ? "self" : cuda ? "nccl" : "mpi";
  return computation;
}

}  // namespace bipo
