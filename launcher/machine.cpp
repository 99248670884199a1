#include "launcher/machine.hpp"

#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

#include "collectives/errors.hpp"
#include "launcher/version.hpp"

namespace bipo {
namespace {

std::int64_t bound_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
}

std::optional<std::int64_t> omp_num_threads() {
  const char* text = std::getenv("OMP_NUM_THREADS");
  if (text == nullptr) {
    return std::nullopt;
  }
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text, text + std::strlen(text), value);
  return error == std::errc() && value >= 1 ? std::optional(value) : std::nullopt;
}

std::uint64_t available_host_memory() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  std::uint64_t kibibytes = 0;
  std::string unit;
  while (file >> key >> kibibytes) {
    std::getline(file, unit);
    if (key == "MemAvailable:") {
      return kibibytes * 1024;
    }
  }
  throw EnvironmentError("/proc/meminfo: no MemAvailable; give --cache-budget");
}

}  // namespace

ThreadChoice choose_threads(std::optional<std::int64_t> requested, int local_ranks) {
  if (requested) {
    return {*requested, "--threads"};
  }
  if (const auto from_environment = omp_num_threads()) {
    return {*from_environment, "OMP_NUM_THREADS"};
  }
  const std::int64_t cores = sysconf(_SC_NPROCESSORS_ONLN);
  const std::int64_t share = std::max<std::int64_t>(1, cores / local_ranks);
  const std::int64_t bound = bound_cores();
  if (bound < share) {
    return {bound, fmt::format("bound to {} of {} cores; mpirun --bind-to none frees the others",
                               bound, cores)};
  }
  return {share, fmt::format("{} cores / {} rank{} on this node", cores, local_ranks,
                             local_ranks == 1 ? "" : "s")};
}

c10::Device choose_device(const std::string& name, int local_rank, int local_ranks) {
  const int devices = kHaveCuda ? at::detail::getCUDAHooks().deviceCount() : 0;
  if (name == "cpu" || (name == "auto" && devices == 0)) {
    return c10::Device(c10::kCPU);
  }
  if (!kHaveCuda) {
    throw UserError(
        "--device cuda: this program was built for the CPU only; build it with the preset "
        "\"cuda\"");
  }
  if (devices == 0) {
    throw UserError(
        "--device cuda: no CUDA device is visible here; use --device cpu or see nvidia-smi");
  }
  // A scheduler may show each rank its own device only.
  const int index = devices == 1 && local_ranks > 1 ? 0 : local_rank;
  if (index >= devices) {
    throw UserError(fmt::format(
        "--device cuda: {} ranks on this node, but {} CUDA devices; start one rank per device",
        local_ranks, devices));
  }
  return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(index));
}

void select_device(c10::Device device) {
  if (device.is_cuda()) {
    c10::impl::VirtualGuardImpl(device.type()).setDevice(device);
  }
}

std::uint64_t memory_per_rank(c10::Device device, int local_ranks) {
  if (device.is_cuda()) {
    return c10::getDeviceAllocator(device.type())->getMemoryInfo(device.index()).first;
  }
  return available_host_memory() / static_cast<std::uint64_t>(local_ranks);
}

}  // namespace bipo
