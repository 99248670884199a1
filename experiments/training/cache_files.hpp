// Prepares the files of cached activations that --cache-dir requests.
#pragma once

#include <cstdint>
#include <filesystem>

#include "experiments/job/computation.hpp"

namespace bipo {

// Creates the directory if it is missing (its parent must exist) and checks that files can be
// written there.  Throws UserError.
void prepare_cache_directory(const std::filesystem::path& directory);

// Everything on which activations and reference log-probabilities depend to the last bit, except
// for the layer and the CacheSettings.
struct CacheOrigin {
  std::uint64_t model_fingerprint = 0;  // covers configuration and weights
  std::uint64_t tokens_hash = 0;
  const Computation& computation;
  bool deterministic = false;
  int tp = 1;  // tensor-parallel size of the ranks that fill the cache
};

// Returns the key of CacheSettings for this build of the program.
std::uint64_t cache_key(const CacheOrigin& origin);

}  // namespace bipo
