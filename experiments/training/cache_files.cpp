#include "experiments/training/cache_files.hpp"

#include <fmt/format.h>

#include <system_error>

#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "experiments/runs/run_file.hpp"
#include "experiments/settings/field.hpp"
#include "experiments/settings/version.hpp"

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
                      origin.model_fingerprint, origin.tokens_hash, origin.tp,
                      name_of(origin.computation.dtype), name_of(origin.computation.kind),
                      origin.computation.threads.threads, origin.deterministic, kProgramVersion,
                      kGitCommit));
  return key.value();
}

}  // namespace bipo
