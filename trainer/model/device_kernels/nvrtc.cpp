#include "trainer/model/device_kernels/nvrtc.hpp"

#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <link.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <filesystem>
#include <utility>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

using Program = void*;  // nvrtcProgram

constexpr const char* kLanguage = "--std=c++17";
// Products and sums are rounded one by one, as the C++ compiler's are: memory limits these kernels,
// not arithmetic.
constexpr const char* kRounding = "--fmad=false";

}  // namespace

struct Nvrtc::Library {
  void* handle = nullptr;  // stays open: libtorch may use the library as well
  const char* (*error_string)(int) = nullptr;
  int (*version)(int*, int*) = nullptr;
  int (*create)(Program*, const char*, const char*, int, const char* const*,
                const char* const*) = nullptr;
  int (*destroy)(Program*) = nullptr;
  int (*compile)(Program, int, const char* const*) = nullptr;
  int (*log_size)(Program, std::size_t*) = nullptr;
  int (*log)(Program, char*) = nullptr;
  int (*code_size)(Program, std::size_t*) = nullptr;
  int (*code)(Program, char*) = nullptr;

  template <class Function>
  void find(const char* name, Function& function) const {
    function = reinterpret_cast<Function>(dlsym(handle, name));
    if (function == nullptr) {
      throw EnvironmentError(fmt::format("NVRTC: its library has no {}", name));
    }
  }

  void check(int result, const char* call) const {
    if (result != 0) {
      throw EnvironmentError(fmt::format("NVRTC: {} failed: {}", call, error_string(result)));
    }
  }
};

std::vector<std::string> places_of_nvrtc() {
  const std::vector<std::string> names = {"libnvrtc.so.13", "libnvrtc.so.12"};
  void* core = dlopen("libc10.so", RTLD_LAZY | RTLD_NOLOAD);
  link_map* loaded = nullptr;
  if (core == nullptr || dlinfo(core, RTLD_DI_LINKMAP, &loaded) != 0) {
    return names;
  }
  // .../site-packages/torch/lib/libc10.so -> .../site-packages/nvidia/*/lib; the file itself may be
  // a link into the store of an installer.
  std::error_code ignored;
  const std::filesystem::path packages =
      std::filesystem::weakly_canonical(std::filesystem::path(loaded->l_name).parent_path(),
                                        ignored) /
      ".." / ".." / "nvidia";
  std::vector<std::string> places;
  for (const auto& package : std::filesystem::directory_iterator(packages, ignored)) {
    std::error_code none;
    for (const auto& file : std::filesystem::directory_iterator(package.path() / "lib", none)) {
      if (file.path().filename().string().starts_with("libnvrtc.so.")) {
        places.push_back(file.path().lexically_normal().string());
      }
    }
  }
  std::sort(places.rbegin(), places.rend());
  places.insert(places.end(), names.begin(), names.end());
  return places;
}

Nvrtc::Nvrtc(const std::vector<std::string>& places) : library_(std::make_unique<Library>()) {
  for (const std::string& place : places) {
    library_->handle = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library_->handle != nullptr) {
      break;
    }
  }
  if (library_->handle == nullptr) {
    throw EnvironmentError(fmt::format("NVRTC, which torch's CUDA wheel brings, is not found: {}",
                                       fmt::join(places, ", ")));
  }
  library_->find("nvrtcGetErrorString", library_->error_string);
  library_->find("nvrtcVersion", library_->version);
  library_->find("nvrtcCreateProgram", library_->create);
  library_->find("nvrtcDestroyProgram", library_->destroy);
  library_->find("nvrtcCompileProgram", library_->compile);
  library_->find("nvrtcGetProgramLogSize", library_->log_size);
  library_->find("nvrtcGetProgramLog", library_->log);
  library_->find("nvrtcGetCUBINSize", library_->code_size);
  library_->find("nvrtcGetCUBIN", library_->code);
  int major = 0;
  int minor = 0;
  library_->check(library_->version(&major, &minor), "nvrtcVersion");
  version_ = fmt::format("{}.{}", major, minor);
}

Nvrtc::~Nvrtc() = default;

std::string Nvrtc::options() {
  return fmt::format("{} {}", kLanguage, kRounding);
}

std::string Nvrtc::compile(const std::string& source, std::string_view architecture) const {
  Program program = nullptr;
  library_->check(
      library_->create(&program, source.c_str(), "device_kernels.cuh", 0, nullptr, nullptr),
      "nvrtcCreateProgram");
  const auto destroy = [this](Program* made) { library_->destroy(made); };
  const std::unique_ptr<Program, decltype(destroy)> owner(&program, destroy);

  const std::string target = fmt::format("--gpu-architecture={}", architecture);
  const std::array<const char*, 3> options = {target.c_str(), kLanguage, kRounding};
  const int result = library_->compile(program, static_cast<int>(options.size()), options.data());
  if (result != 0) {
    std::size_t size = 0;
    std::string log;
    if (library_->log_size(program, &size) == 0 && size > 0) {
      log.resize(size);
      library_->log(program, log.data());
      log.pop_back();  // the terminating zero
    }
    throw EnvironmentError(fmt::format("NVRTC {}: the kernels do not compile for {}: {} {}",
                                       version_, architecture, library_->error_string(result),
                                       log));
  }
  std::size_t size = 0;
  library_->check(library_->code_size(program, &size), "nvrtcGetCUBINSize");
  std::string code(size, '\0');
  library_->check(library_->code(program, code.data()), "nvrtcGetCUBIN");
  return code;
}

}  // namespace bipo
