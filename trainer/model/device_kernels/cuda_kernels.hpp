// The kernels of device_kernels.cuh on GPUs of CUDA.
#pragma once

#include <c10/core/Device.h>

#include <string>

namespace bipo {

// Compiles them for the selected `device` or takes them from the cache, loads them there, and
// registers their runner.  Returns for what and with which compiler, as one line.  Throws
// EnvironmentError where NVRTC or the driver is missing or refuses, and in a build without CUDA.
std::string load_cuda_kernels(c10::Device device);

}  // namespace bipo
