#include "trainer/model/device_kernels/cuda_kernels.hpp"

#include <c10/cuda/CUDAStream.h>
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/device_kernels/device_kernels.cuh"
#include "trainer/model/device_kernels/kernel_cache.hpp"
#include "trainer/model/device_kernels/kernel_runner.hpp"
#include "trainer/model/device_kernels/nvrtc.hpp"

namespace bipo {
namespace {

// The driver's library comes with the driver: a machine without a GPU has none to link with.
class Driver {
 public:
  Driver() : handle_(dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)) {
    if (handle_ == nullptr) {
      throw EnvironmentError(fmt::format("CUDA: the driver's library is not found: {}", dlerror()));
    }
    find("cuModuleLoadData", load_module);
    find("cuModuleGetFunction", get_function);
    find("cuLaunchKernel", launch);
    find("cuGetErrorString", error_string_);
  }

  void check(CUresult result, const char* call) const {
    if (result != CUDA_SUCCESS) {
      const char* text = nullptr;
      error_string_(result, &text);
      throw EnvironmentError(
          fmt::format("CUDA: {} failed: {}", call, text == nullptr ? "unknown error" : text));
    }
  }

  CUresult (*load_module)(CUmodule*, const void*) = nullptr;
  CUresult (*get_function)(CUfunction*, CUmodule, const char*) = nullptr;
  CUresult (*launch)(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                     unsigned, CUstream, void**, void**) = nullptr;

 private:
  template <class Function>
  void find(const char* name, Function& function) const {
    function = reinterpret_cast<Function>(dlsym(handle_, name));
    if (function == nullptr) {
      throw EnvironmentError(fmt::format("CUDA: the driver's library has no {}", name));
    }
  }

  void* handle_;  // stays open: the runtime uses the library as well
  CUresult (*error_string_)(CUresult, const char**) = nullptr;
};

// Names of types in entry points, in device_kernels.cuh.
constexpr std::pair<at::ScalarType, const char*> kTypes[] = {
    {at::kFloat, "float32"}, {at::kBFloat16, "bfloat16"}, {at::kDouble, "float64"}};

const std::vector<const char*>& kernel_names() {
#define BIPO_NAME(kernel, Arguments) #kernel,
  static const std::vector<const char*> names = {BIPO_EACH_KERNEL(BIPO_NAME)};
#undef BIPO_NAME
  return names;
}

class CudaKernels final : public KernelRunner {
 public:
  CudaKernels(c10::Device device, const std::string& code) : device_(device) {
    CUmodule module = nullptr;  // lives as long as the process
    driver_.check(driver_.load_module(&module, code.data()), "cuModuleLoadData");
    for (const char* kernel : kernel_names()) {
      for (const auto& [type, name] : kTypes) {
        CUfunction& function = functions_[{kernel, type}];
        driver_.check(
            driver_.get_function(&function, module, fmt::format("{}_{}", kernel, name).c_str()),
            "cuModuleGetFunction");
      }
    }
  }

  void run(const KernelCall& call) override {
    for (const auto* tensors : {call.reads.begin(), call.writes.begin()}) {
      if (*tensors != nullptr && (*tensors)->device() != device_) {
        throw BugError(fmt::format("kernel {}: loaded for {}, called on {}", call.kernel,
                                   device_.str(), (*tensors)->device().str()));
      }
    }
    void* arguments = const_cast<void*>(call.arguments);  // which the driver copies
    driver_.check(
        driver_.launch(functions_.at({call.kernel, call.type}), static_cast<unsigned>(call.rows), 1,
                       1, static_cast<unsigned>(call.threads), 1, 1, 0,
                       c10::cuda::getCurrentCUDAStream(device_.index()).stream(), &arguments,
                       nullptr),
        call.kernel);
  }

 private:
  struct Key {
    std::string_view kernel;
    at::ScalarType type;
    auto operator<=>(const Key&) const = default;
  };

  c10::Device device_;
  Driver driver_;
  std::map<Key, CUfunction> functions_;
};

void check_runtime(cudaError_t result, const char* call) {
  if (result != cudaSuccess) {
    throw EnvironmentError(fmt::format("CUDA: {} failed: {}", call, cudaGetErrorString(result)));
  }
}

// The largest head of libtorch's flash attention, forward and backward: the backward pass of heads
// above 192 needs more shared memory than consumer GPUs have.
std::int64_t largest_head_of(int major, int minor) {
  if (major < 8) {
    return 0;
  }
  const bool is_small = (major == 8 && minor != 0) || major >= 12;
  return is_small ? 192 : 256;
}

}  // namespace

std::string load_cuda_kernels(c10::Device device) {
  const int index = device.index();
  check_runtime(cudaSetDevice(index), "cudaSetDevice");
  check_runtime(cudaFree(nullptr), "cudaFree");  // makes the device's context
  int major = 0;
  int minor = 0;
  check_runtime(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index),
                "cudaDeviceGetAttribute");
  check_runtime(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index),
                "cudaDeviceGetAttribute");
  const std::string architecture = fmt::format("sm_{}{}", major, minor);
  const Nvrtc nvrtc(places_of_nvrtc());
  static std::unique_ptr<CudaKernels> kernels;  // of the process's one device
  kernels = std::make_unique<CudaKernels>(
      device, device_code(nvrtc, kKernelSource, architecture, kernel_cache_folder()));
  register_kernels(c10::kCUDA, kernels.get());
  register_flash_attention(c10::kCUDA, largest_head_of(major, minor));
  return fmt::format("compiled for {} by NVRTC {}", architecture, nvrtc.version());
}

}  // namespace bipo
