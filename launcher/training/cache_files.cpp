#include "launcher/training/cache_files.hpp"

#include <fmt/format.h>

#include <system_error>

#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "experiments/files/atomic_file.hpp"
#include "launcher/options/version.hpp"

namespace bipo {

void prepare_cache_directory(const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::create_directory(directory, error);
  if (!std::filesystem::is_directory(directory)) {
    throw UserError(fmt::format("--cache-dir {}: not a directory, and cannot be made: {}",
                                directory.string(), error.message()));
  }
  check_replaceable(directory / "cache");
}

std::uint64_t cache_key(const CacheOrigin& origin) {
  ContentHash key;
  key.add(fmt::format("{:016x} {:016x} tp {} {} {} threads {} deterministic {} {} {}",
                      origin.model_fingerprint, origin.tokens_hash, origin.tp, origin.dtype,
                      origin.device, origin.threads, origin.deterministic, kProgramVersion,
                      kGitCommit));
  return key.value();
}

}  // namespace bipo
