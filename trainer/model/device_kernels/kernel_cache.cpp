#include "trainer/model/device_kernels/kernel_cache.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cstdint>
#include <cstdlib>
#include <optional>
#include <span>
#include <system_error>

#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/file_descriptor.hpp"
#include "collectives/foundation/input_file.hpp"
#include "collectives/foundation/random_name.hpp"

namespace bipo {
namespace {

constexpr std::uint64_t kMostCodeBytes = std::uint64_t{64} << 20;

std::uint64_t key_of(const Nvrtc& nvrtc, std::string_view source, std::string_view architecture) {
  ContentHash key;
  key.add(source);
  key.add(architecture);
  key.add(nvrtc.version());
  key.add(Nvrtc::options());
  return key.value();
}

// The first line of a file: what its code was made from, and the code's own hash.
std::string header_of(std::uint64_t key, std::string_view code) {
  ContentHash hash;
  hash.add(code);
  return fmt::format("bipo-dist device code 1 {:016x} {:016x} {}\n", key, hash.value(),
                     code.size());
}

// Returns the code of a file that is whole, belongs to this user and was made under `key`.
std::optional<std::string> kept_code(const std::filesystem::path& path, std::uint64_t key) {
  try {
    const InputFile file(path);
    struct stat status {};
    if (::fstat(file.get(), &status) != 0 || !is_own(status)) {
      return std::nullopt;
    }
    const std::string bytes = file.read(kMostCodeBytes);
    const std::size_t end = bytes.find('\n');
    if (end == std::string::npos) {
      return std::nullopt;
    }
    std::string code = bytes.substr(end + 1);
    return bytes.starts_with(header_of(key, code)) ? std::optional(std::move(code)) : std::nullopt;
  } catch (const std::runtime_error&) {  // unreadable: compiled again
    return std::nullopt;
  }
}

// Leaves nothing behind where it fails: then the next process compiles again.
void keep_code(const std::filesystem::path& path, std::uint64_t key, const std::string& code) {
  std::error_code ignored;
  std::filesystem::create_directories(path.parent_path(), ignored);
  TempFile temporary(path.parent_path() / (random_name() + ".tmp"));
  if (!temporary.file().is_open()) {
    return;
  }
  const std::string bytes = header_of(key, code) + code;
  if (write_all(temporary.file(), std::as_bytes(std::span(bytes))) &&
      sync_file(temporary.file()) == 0) {
    temporary.rename_to(path);
  }
}

}  // namespace

std::filesystem::path kernel_cache_folder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && std::filesystem::path(cache).is_absolute()) {
    return std::filesystem::path(cache) / "bipo-dist" / "kernels";
  }
  const char* home = std::getenv("HOME");
  return home == nullptr || *home == '\0'
             ? std::filesystem::path()
             : std::filesystem::path(home) / ".cache" / "bipo-dist" / "kernels";
}

std::filesystem::path device_code_file(const Nvrtc& nvrtc, std::string_view source,
                                       std::string_view architecture,
                                       const std::filesystem::path& folder) {
  return folder / fmt::format("{}-{:016x}.bin", architecture, key_of(nvrtc, source, architecture));
}

std::string device_code(const Nvrtc& nvrtc, const std::string& source,
                        std::string_view architecture, const std::filesystem::path& folder) {
  if (folder.empty()) {
    return nvrtc.compile(source, architecture);
  }
  const std::uint64_t key = key_of(nvrtc, source, architecture);
  const std::filesystem::path path = device_code_file(nvrtc, source, architecture, folder);
  if (auto code = kept_code(path, key)) {
    return *std::move(code);
  }
  std::string code = nvrtc.compile(source, architecture);
  keep_code(path, key, code);
  return code;
}

}  // namespace bipo
