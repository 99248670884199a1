#include "experiments/job/machine.hpp"

#include <fmt/format.h>
#include <malloc.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <string>

#include "collectives/device.hpp"
#include "collectives/foundation/errors.hpp"
#include "experiments/progress/progress.hpp"
#include "experiments/settings/version.hpp"

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

std::uint64_t available_by_kernel() {
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
  throw EnvironmentError("/proc/meminfo: no MemAvailable");
}

// Returns nothing for "max" and for a missing file.
std::optional<std::uint64_t> read_number(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::uint64_t value = 0;
  return file >> value ? std::optional(value) : std::nullopt;
}

// Returns the memory that the limits of the groups from `group` up to `root` leave.
std::uint64_t left_by_groups(const std::filesystem::path& root, std::filesystem::path group,
                             const char* limit_name, const char* usage_name) {
  std::uint64_t left = std::numeric_limits<std::uint64_t>::max();
  for (;; group = group.parent_path()) {
    const auto limit = read_number(root / group.relative_path() / limit_name);
    const auto usage = read_number(root / group.relative_path() / usage_name);
    if (limit && usage) {
      left = std::min(left, *limit > *usage ? *limit - *usage : 0);
    }
    if (!group.has_relative_path()) {
      return left;
    }
  }
}

// Visits the lines of /proc/self/cgroup, which read "0::/path" (version 2) or "4:memory:/path"
// (version 1).
void for_each_control_group(
    const std::function<void(const std::string& controllers, const std::string& path)>& visit) {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (second != std::string::npos) {
      visit(line.substr(first + 1, second - first - 1), line.substr(second + 1));
    }
  }
}

// Slurm and containers limit memory by control groups, which /proc/meminfo does not show.
std::uint64_t left_by_control_groups() {
  std::uint64_t left = std::numeric_limits<std::uint64_t>::max();
  for_each_control_group([&](const std::string& controllers, const std::string& path) {
    if (controllers.empty()) {
      left = std::min(left, left_by_groups("/sys/fs/cgroup", path, "memory.max", "memory.current"));
    } else if (controllers == "memory") {
      left = std::min(left, left_by_groups("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes",
                                           "memory.usage_in_bytes"));
    }
  });
  return left;
}

// Returns the cores that a quota of processor time amounts to, rounded up; many without one.  The
// file of version 2 reads "200000 100000" or "max 100000".
std::int64_t quota_cores() {
  std::int64_t cores = std::numeric_limits<std::int64_t>::max();
  const auto limit = [&](double quota, double period) {
    if (quota > 0 && period > 0) {
      cores = std::min(cores, static_cast<std::int64_t>(std::ceil(quota / period)));
    }
  };
  for_each_control_group([&](const std::string& controllers, const std::string& path) {
    if (!controllers.empty()) {
      return;
    }
    const std::filesystem::path root = "/sys/fs/cgroup";
    for (std::filesystem::path group = path;; group = group.parent_path()) {
      std::ifstream file(root / group.relative_path() / "cpu.max");
      double quota = 0;
      double period = 0;
      if (file >> quota >> period) {
        limit(quota, period);
      }
      if (!group.has_relative_path()) {
        return;
      }
    }
  });
  return cores;
}

std::uint64_t available_host_memory() {
  return std::min(available_by_kernel(), left_by_control_groups());
}

}  // namespace

ThreadChoice choose_threads(std::optional<std::int64_t> requested, int local_ranks,
                            int node_cores) {
  if (requested) {
    return {*requested, "--threads"};
  }
  if (const auto from_environment = omp_num_threads()) {
    return {*from_environment, "OMP_NUM_THREADS"};
  }
  const std::int64_t share = std::max(1, node_cores / local_ranks);
  const std::int64_t bound = std::min(share, bound_cores());
  const std::int64_t online = sysconf(_SC_NPROCESSORS_ONLN);
  if (bound < online / local_ranks) {
    return {bound, fmt::format("bound to {} of {} cores; mpirun --bind-to none frees the others",
                               bound_cores(), online)};
  }
  return {bound, fmt::format("{} cores / {} rank{} on this node", node_cores, local_ranks,
                             local_ranks == 1 ? "" : "s")};
}

std::optional<std::string> thread_warning(const ThreadChoice& choice) {
  const std::int64_t bound = bound_cores();
  const std::int64_t quota = quota_cores();
  const std::int64_t cores = std::min(bound, quota);
  if (choice.threads <= cores) {
    return std::nullopt;
  }
  return fmt::format(
      "{}: {} threads on {} {} that this process may use{}: they wait for each other, and every "
      "step takes longer",
      choice.reason, choice.threads, cores, cores == 1 ? "core" : "cores",
      quota < bound ? " (limit of its control group)" : "");
}

c10::Device choose_device(DeviceKind kind, int local_rank, int local_ranks) {
  if (kind == DeviceKind::kCpu) {
    return c10::Device(c10::kCPU);
  }
  // Asked first: libtorch would only warn, and a job for GPUs would go on for days on the CPU.
  if (const std::string fault = accelerator_fault(); !fault.empty()) {
    throw UserError(fmt::format("--device {}: {}; --device cpu runs without",
                                kind == DeviceKind::kAuto ? "auto" : "cuda", fault));
  }
  const int devices = accelerator_count();
  if (kind == DeviceKind::kAuto && devices == 0) {
    return c10::Device(c10::kCPU);
  }
  if (devices == 0 && !kHaveCuda) {
    throw UserError(
        "--device cuda: this program was built for the CPU only; build it with the preset "
        "\"cuda\"");
  }
  if (devices == 0) {
    throw UserError(
        "--device cuda: no CUDA device is visible here; see nvidia-smi and CUDA_VISIBLE_DEVICES (a "
        "container needs docker's --gpus all, apptainer's --nv), or use --device cpu");
  }
  // A scheduler may make only its own device visible to each rank.
  const int index = devices == 1 && local_ranks > 1 ? 0 : local_rank;
  if (index >= devices) {
    throw UserError(fmt::format(
        "--device cuda: {} ranks on this node, but {} CUDA devices; start one rank per device",
        local_ranks, devices));
  }
  return c10::Device(*accelerator_type(), static_cast<c10::DeviceIndex>(index));
}

std::uint64_t memory_per_rank(c10::Device device, int local_ranks) {
  if (!device.is_cpu()) {
    return free_device_memory(device);
  }
  return available_host_memory() / static_cast<std::uint64_t>(local_ranks);
}

void require_memory(const std::string& what, std::uint64_t needed, std::uint64_t available,
                    std::int64_t tp) {
  if (needed > available) {
    throw UserError(fmt::format(
        "{} {} per rank at --tp {} in this --dtype, but {} are free for each rank; raise --tp, use "
        "--dtype bf16, or start fewer ranks per node",
        what, gib_text(static_cast<double>(needed)), tp, gib_text(static_cast<double>(available))));
  }
}

void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
#endif
}

}  // namespace bipo
