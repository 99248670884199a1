// Caches everything of a data set that is independent of the vector: the residual stream before
// anything acts at the requested layers, and reference log-probabilities, computed in one pass.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "collectives/session.hpp"
#include "datasets/batches/prefix_packs.hpp"
#include "datasets/tokens/token_pair.hpp"
#include "trainer/cache/activation_file.hpp"
#include "trainer/cache/activation_store.hpp"
#include "trainer/intervention/layers.hpp"
#include "trainer/model/decoder/decoder.hpp"
#include "trainer/objective/objective.hpp"
#include "trainer/passes/packing.hpp"
#include "trainer/passes/scoring.hpp"

namespace bipo {

// P pairs, T packed tokens of all pairs, D hidden.

// Where the activations of a training are read from.
enum class ActivationPlace {
  kAuto,    // the device if they take at most half of what it has left, and leave enough to the
            // work on a micro-batch; else host memory
  kHost,    // host memory; a step brings its rows to the device
  kDevice,  // the device
};

struct CacheSettings {
  std::vector<std::int64_t> layers;  // ascending, no layer twice
  // Whose vectors are served: the activations of a layer are its block's output, with kMlp its
  // input.
  Site site = Site::kBlock;
  std::int64_t group_size = 4;       // pairs that are scored together
  bool keep = true;                  // else every use runs the prefix again
  bool reference = true;             // else only activations: blocks behind the layers do not run
  at::ScalarType type = at::kFloat;  // of the kept activations
  ActivationPlace place = ActivationPlace::kAuto;
  std::uint64_t work_bytes = 0;  // of the device, which kAuto leaves to the work on a micro-batch
  std::int64_t device_pack = kTokensPerDevicePack;  // see fit_into_device_pack()
  // Bytes of the device that the pairs under way leave to the work on such a pack, at least.
  std::uint64_t pack_bytes = 0;
  std::filesystem::path directory;  // of files that the next run opens; empty: in memory
  bool trusts_others = false;       // opens files of other users too
  std::function<void(const std::string&)> warn;  // about files; called alike on every rank
  std::uint64_t key = 0;  // of everything that shapes the values, layer and type aside
};

// The results depend neither on the number of replicas, nor on the other requested layers, nor, on
// a CPU, on whether activations are kept or recomputed.  Where the decoder's rows are independent,
// pairs are packed together for it.  So they are on an accelerator that keeps them, always the same
// ones: there last bits depend on them.  Elsewhere the model runs pair by pair.  Without
// independent rows, or with kMlp, and with bfloat16 the reference of a layer is scored again, in
// fixed groups of consecutive pairs, by the suffix that training uses: there last bits become
// differences as large as a young vector's effect.  Replicas take shares of the pairs in turn and
// exchange the results.
class ActivationCache {
 public:
  // Reserves room, and reads what an earlier run kept.  A file that is damaged in any way is named
  // in a warning and removed.  `pairs` must outlive the cache.  Collective over: world
  ActivationCache(const Decoder& decoder, const std::vector<TokenPair>& pairs,
                  const CacheSettings& settings, const Ranks& ranks);

  // Bytes that the activations of `pairs` at one layer take on each node.
  static std::uint64_t bytes_needed(std::int64_t hidden, const std::vector<TokenPair>& pairs,
                                    at::ScalarType type);

  // True at once when an earlier run kept the values, otherwise after fill_caches().
  bool is_filled() const;
  bool keeps_activations() const { return settings_.keep; }
  const CacheSettings& settings() const { return settings_; }
  const std::vector<TokenPair>& pairs() const { return pairs_; }
  const std::vector<std::vector<std::int64_t>>& groups() const { return groups_; }

  // Returns the activations of `layer` [tokens, D] for packed pairs, in the residual type on the
  // decoder's device. Collective over: tp (where activations are not kept)
  at::Tensor activations(const Decoder& decoder, const PackedPairs& packed,
                         std::int64_t layer) const;

  // Returns a copy of all kept rows of a layer on the decoder's device, for training, where they
  // belong there by the settings; else an undefined tensor.  Throws UserError where they have to be
  // there and have no room.  Local.
  at::Tensor rows_on_device(const Decoder& decoder, std::int64_t layer) const;

  // Returns all kept rows of a layer, in host memory.
  const at::Tensor& kept_activations(std::int64_t layer) const {
    return at(layer).store->activations();
  }

  // Returns the row among them of each token of `packed`, [T].
  std::vector<std::int64_t> kept_rows(const PackedPairs& packed) const;

  // Scores all pairs with `coefficient` times `vector` [S D], the parts of S `layers`, added at the
  // cache's site of these blocks at `positions`, from the activations of the lowest; the same on
  // every rank.
  // `complements`, where wanted, gets the sums of log(1 - pi) over the answers' tokens.  Collective
  // over: dp x tp
  std::vector<AnswerLogProbs> score(const ScoringContext& context, const SteeredLayers& layers,
                                    const at::Tensor& vector, double coefficient,
                                    const SteeredPositions& positions = {},
                                    std::vector<AnswerLogProbs>* complements = nullptr) const;

  bool has_reference() const { return settings_.reference; }

  // [P] log-probabilities at v = 0.  Throws BugError where the settings want none.
  const std::vector<AnswerLogProbs>& reference(std::int64_t layer) const;

  // Median over all packed tokens of the root mean square of the activations of `layer`.
  double median_rms(std::int64_t layer) const { return at(layer).median_rms; }

 private:
  friend class PrefixPass;

  struct Layer {
    std::int64_t layer = 0;
    std::unique_ptr<ActivationStore> store;  // null where activations are not kept
    std::unique_ptr<ActivationFile> file;    // null without a directory
    std::vector<AnswerLogProbs> reference;   // empty where the settings want none
    double median_rms = 0;
    bool filled = false;
  };

  const Layer& at(std::int64_t layer) const;
  void read_file(Layer& layer, const Ranks& ranks);
  // `device_pack`: tokens of the packs that made the file, where they go into its key.
  void try_file(Layer& layer, bool with_reference, std::optional<std::int64_t> device_pack,
                const Ranks& ranks);
  void read_back(Layer& layer);
  std::optional<WriteProblem> write_file(const Layer& layer, const Ranks& ranks) const;
  Range rows_of(std::int64_t pair) const;
  std::vector<std::vector<std::int64_t>> make_shares() const;

  const std::vector<TokenPair>& pairs_;
  CacheSettings settings_;
  std::vector<std::vector<std::int64_t>> groups_;
  std::vector<std::int64_t> first_token_;  // [P + 1] of each pair among all packed tokens
  bool independent_rows_;                  // on every rank
  bool has_device_packs_;                  // likewise: an accelerator packs pairs together
  // Consecutive pairs that one replica computes, in turn: groups, or an accelerator's packs.
  std::vector<std::vector<std::int64_t>> shares_;
  std::vector<Layer> layers_;
};

// Called with the name of the work under way, the amount done and the whole amount.
using PassProgress =
    std::function<void(const std::string& what, std::int64_t done, std::int64_t total)>;

// Returns [T], the root mean square over D of each row of h [T, D], float64 on the CPU.
at::Tensor token_rms(const at::Tensor& h);

// Returns the median over all tokens, the unit that vectors are measured in; `rms` is 0 for tokens
// of other replicas.  The same on every rank, to the bit.  `device`: the model's. Collective over:
// dp x tp
double shared_median(std::vector<double> rms, at::Device device, const Ranks& ranks);

// Returns median_rms() of the lowest of S `layers`, whose activations the cache has, and of each
// other the same where nothing is steered, over the tokens of the first 64 pairs; [S].  Their
// blocks must be loaded.  Collective over: dp x tp
std::vector<double> median_rms_of_layers(const Decoder& decoder, const ActivationCache& cache,
                                         const SteeredLayers& layers, const Ranks& ranks);

// Fills the caches that are not filled, all of the same layers and site; a reference-free one runs
// no block behind its activations.  Where activations are kept and the blocks before those of the
// lowest layer are larger than the pairs' hidden states, all pairs go through a block before the
// next block is loaded, on an accelerator in portions of half of its free memory (less beside packs
// that take more); else pack after pack goes through all blocks, with the same bits.  These blocks
// are released after use.  Each layer's file gets its name as soon as the layer is complete; where
// none can be written, a warning says so and the values stay in memory.  Afterwards the suffix of
// the lowest layer is loaded; everything else is too if a cache does not keep activations.  Throws
// AgreedFailure (1) when a reference log-probability is not finite.  Collective over: world
void fill_caches(Decoder& decoder, const std::vector<ActivationCache*>& caches, const Ranks& ranks,
                 const PassProgress& progress);

}  // namespace bipo
