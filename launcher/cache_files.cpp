#include "launcher/cache_files.hpp"

#include <fmt/format.h>

#include <system_error>

#include "collectives/errors.hpp"
#include "experiments/run_file.hpp"

namespace bipo {

void prepare_cache_directory(const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::create_directory(directory, error);
  if (!std::filesystem::is_directory(directory)) {
    throw UserError(fmt::format("--cache-dir {}: not a directory, and cannot be made: {}",
                                directory.string(), error.message()));
  }
  check_writable(directory / "cache");
}

}  // namespace bipo
