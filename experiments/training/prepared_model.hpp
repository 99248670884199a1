// Prepares a model and the cached activations of its data for training vectors at the requested
// layers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "collectives/session.hpp"
#include "experiments/job/computation.hpp"
#include "experiments/progress/progress.hpp"
#include "experiments/training/run_preparation.hpp"
#include "trainer/cache/activation_cache.hpp"
#include "trainer/model/decoder/decoder.hpp"

namespace bipo {

// Loads the job's model with head and final norm, sharded over the tensor-parallel group of
// `ranks`; both arguments must outlive it.  Local.
std::unique_ptr<Decoder> load_decoder(const JobPreparation& job, const Ranks& ranks);

struct PreparedData {
  std::unique_ptr<ActivationCache> train;
  std::unique_ptr<ActivationCache> held_out;  // null without evaluation

  // Returns true if no step needs the blocks up to the layer.
  bool keeps_activations() const;
};

struct DataRequest {
  std::vector<std::int64_t> layers;  // ascending
  bool evaluates = true;
  std::uint64_t budget = 0;  // bytes per node
  // Whether training needs the log-probabilities of its pairs without a vector.  Those of held-out
  // pairs, which are measured without one too, are always there.
  bool reference = true;
};

ActivationPlace cache_place(CacheDevice cache_device);

// Fills the caches, all of the same layers.  Afterwards freed memory stays with the process, for
// later steps.  Collective over: world
void run_prefix_pass(Decoder& decoder, const std::vector<ActivationCache*>& caches,
                     const Ranks& ranks, ProgressDisplay& display);

// Returns the smallest of the packs that ranks have chosen, see choose_packs(): last bits depend on
// what is packed together.  Warns where it is another's.  `pass`: its name.  Collective over: world
std::int64_t agreed_pack(const std::string& pass, std::int64_t mine, const Ranks& ranks,
                         ProgressDisplay& display);

// Fills the caches of the job's pairs in one pass over the data for all layers, and checks that
// training begins at the reference, on held-out pairs where the others have none.  The pairs must
// outlive the result.  A stop signal ends the process meanwhile; cache files that are whole by then
// stay.  Collective over: world
PreparedData prepare_data(Decoder& decoder, const JobPreparation& job, const DataRequest& request,
                          const Ranks& ranks, ProgressDisplay& display);

// Creates the directory if it is missing (its parent must exist), checks, unless it
// `trusts_others`, that no file of activations there belongs to another user, and removes what
// killed processes left.  A directory that cannot be written serves for reading.  Throws UserError.
void prepare_cache_directory(const std::filesystem::path& directory, bool trusts_others);

// Everything on which activations and reference log-probabilities depend to the last bit, except
// for the layer and the CacheSettings.
struct CacheOrigin {
  std::uint64_t model_fingerprint = 0;  // covers the configuration
  std::uint64_t weights_hash = 0;       // covers every byte of the weights
  std::uint64_t tokens_hash = 0;
  const Computation& computation;
  bool deterministic = false;
  int tp = 1;  // tensor-parallel size of the ranks that fill the cache
};

// Returns the key of CacheSettings for this build of the program.
std::uint64_t cache_key(const CacheOrigin& origin);

}  // namespace bipo
