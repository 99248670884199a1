// The files of kept activations that --cache-dir asks for.
#pragma once

#include <cstdint>
#include <filesystem>

#include "experiments/job/computation.hpp"

namespace bipo {

// Makes the directory where it is missing (its parent must exist) and tries that files can be
// written there.  Throws UserError.
void prepare_cache_directory(const std::filesystem::path& directory);

// What activations and reference log-probabilities depend on to the last bit, beside the layer and
// what CacheSettings says of the cache itself.
struct CacheOrigin {
  std::uint64_t model_fingerprint = 0;  // of configuration and weights
  std::uint64_t tokens_hash = 0;
  const Computation& computation;
  bool deterministic = false;
  int tp = 1;  // of the ranks that make the cache
};

// The key of CacheSettings, for this build of the program.
std::uint64_t cache_key(const CacheOrigin& origin);

}  // namespace bipo
