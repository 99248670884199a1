// `--version --verbose`: the libraries that the program runs with, and what it uses of the
// processor.
#include <ATen/Version.h>
#include <c10/core/ScalarType.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <hdf5.h>
#include <torch/version.h>

#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "collectives/session.hpp"
#include "collectives/transport_versions.hpp"
#include "datasets/arrow/arrow_rows.hpp"
#include "launcher/commands/commands.hpp"
#include "launcher/options/options.hpp"
#include "trainer/model/operators/cpu_products.hpp"

namespace bipo {
namespace {

std::string hdf5_version() {
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
  H5get_libversion(&major, &minor, &release);
  return fmt::format("{}.{}.{}", major, minor, release);
}

std::string or_missing(const std::string& version) {
  return version.empty() ? "not built in" : version;
}

// Returns what the kernel says about the first processor under `key`, "" where it says nothing.
std::string processor_entry(const std::string& key) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with(key) && colon != std::string::npos) {
      return line.substr(colon + 2);
    }
  }
  return "";
}

std::string processor() {
  const std::string name = processor_entry("model name");
  return fmt::format("{}, {} threads", name.empty() ? "unknown" : name,
                     std::thread::hardware_concurrency());
}

// Returns those of the wide instructions of x86 that the processor has.
std::string instructions() {
  const std::string flags = " " + processor_entry("flags") + " ";
  std::vector<std::string> names;
  for (const char* flag : {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}) {
    if (flags.find(fmt::format(" {} ", flag)) != std::string::npos) {
      names.emplace_back(flag);
    }
  }
  return names.empty() ? "no wide ones of x86" : fmt::format("{}", fmt::join(names, " "));
}

std::string products() {
  const auto kind = [](at::ScalarType type) {
    return multiplies_tiles(type) ? "own tiles" : "libtorch's";
  };
  return fmt::format("float32 {}, bfloat16 {}", kind(at::kFloat), kind(at::kBFloat16));
}

}  // namespace

int run_version_command() {
  const std::vector<std::pair<const char*, std::string>> lines = {
      {"libtorch", TORCH_VERSION},
      {"MKL", at::get_mkl_version()},
      {"oneDNN", at::get_mkldnn_version()},
      {"OpenMP", at::get_openmp_version()},
      {"MPI", mpi_version()},
      {"NCCL", or_missing(nccl_version())},
      {"HDF5", hdf5_version()},
      {"Arrow", or_missing(arrow_version())},
      {"processor", processor()},
      {"instructions", instructions()},
      {"libtorch's kernels", at::get_cpu_capability()},
      {"products", products()},
  };
  fmt::print("{}", version_text());
  for (const auto& [name, value] : lines) {
    fmt::print("{:<20}{}\n", name, value);
  }
  return kExitDone;
}

}  // namespace bipo
