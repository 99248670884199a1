#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include "collectives/device.hpp"

namespace bipo {
namespace {

std::string version_text(int number) {  // 1,000 x major + 10 x minor
  return fmt::format("{}.{}", number / 1000, number % 1000 / 10);
}

// Whether the driver itself says so; the runtime asks an old one for nothing but its version.
bool driver_finds_no_device() {
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);  // stays open, as the runtime's
  const auto start =
      driver == nullptr ? nullptr : reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  return start != nullptr && start(0) == static_cast<int>(cudaErrorNoDevice);
}

}  // namespace

std::string accelerator_fault() {
  int devices = 0;
  const cudaError_t counted = cudaGetDeviceCount(&devices);
  cudaGetLastError();  // else a later call is taken for failed
  if (counted == cudaSuccess || counted == cudaErrorNoDevice) {
    return "";
  }
  if (counted != cudaErrorInsufficientDriver) {
    return fmt::format(
        "an NVIDIA driver is here, but cudaGetDeviceCount failed: {} (error {}); nvidia-smi shows "
        "the state of the GPUs",
        cudaGetErrorString(counted), static_cast<int>(counted));
  }
  // CUDA says the same where no driver is at all.
  int driver = 0;
  int runtime = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0 || driver_finds_no_device()) {
    return "";
  }
  cudaRuntimeGetVersion(&runtime);
  return fmt::format(
      "the NVIDIA driver of this machine is for CUDA {}, and this program's torch needs one for "
      "CUDA {}: use a node with a newer driver (nvidia-smi shows its version)",
      version_text(driver), version_text(runtime));
}

}  // namespace bipo
