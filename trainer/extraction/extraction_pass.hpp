// Directions of preference pairs without training, for all requested layers in one pass of the
// pairs through the model.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "collectives/session.hpp"
#include "collectives/topology.hpp"
#include "datasets/batches/prefix_packs.hpp"
#include "datasets/tokens/token_pair.hpp"
#include "trainer/cache/activation_cache.hpp"
#include "trainer/extraction/methods.hpp"
#include "trainer/intervention/site.hpp"
#include "trainer/model/decoder/decoder.hpp"

namespace bipo {

// D hidden, P pairs.

// An answer's positions are its own scored tokens, from the first one after the shared prompt to
// the last one of its text.  The end-of-sequence token does not count: generation ends with it, so
// that no vector is ever added to its activations.  Packing leaves its row out, because it predicts
// nothing. An answer without such a token (--no-eos) ends with text; then its last row is computed,
// too.
struct ExtractionSettings {
  std::vector<std::int64_t> layers;  // ascending, no layer twice
  bool answers_end_with_eos = true;  // as TokenizeOptions::add_eos makes them
  // True: all pairs go through a block before the next one is loaded; memory holds one block and
  // all pairs' activations.  False: blocks 0..max L are loaded and each pair, or pack, goes through
  // them by itself. The results are the same.
  bool block_by_block = true;
  std::int64_t device_pack = kTokensPerDevicePack;  // see fit_into_device_pack()
  Site site = Site::kBlock;                         // whose rows are the activations h_L
};

struct ExtractedDirection {
  std::int64_t layer = 0;
  std::vector<double> value;  // [D]
  double median_rms = 0;      // of h_L: over all tokens of the pass, of their root mean squares
  std::optional<double> figure = {};  // see LayerStatistics
};

// Returns the pairs with the last token of each answer's text as the only one that counts.  Local.
std::vector<TokenPair> last_tokens_alone(std::vector<TokenPair> pairs, bool answers_end_with_eos);

// Lengthens every answer by a token for packing to leave out.  Local.
std::vector<TokenPair> with_token_to_leave_out(std::vector<TokenPair> pairs);

// Returns the packs, one after another, in which a replica takes pairs through the model on an
// accelerator.  Each answer ends with a token that is left out.  Local.
std::vector<std::vector<std::int64_t>> extraction_packs(const std::vector<TokenPair>& pairs,
                                                        std::int64_t device_pack,
                                                        const Topology& topology);

// Throws UserError for an answer without a position to take the mean over.  Local.
void require_answer_positions(const std::vector<TokenPair>& pairs, bool answers_end_with_eos);

// Returns the bytes of one replica's activations on their way through the model block by block.
std::uint64_t streamed_bytes(std::int64_t hidden, const std::vector<TokenPair>& pairs, int dp);

// Returns one direction per layer, in their order, the same on every rank.  On a CPU the model runs
// pair by pair; an accelerator packs consecutive pairs together, always the same ones, because last
// bits depend on them there.  Means and sums are float64, and the sum over pairs does not depend on
// the number of replicas, so that any number of them yields the same bits.  Only head and final
// norm remain loaded.  Throws AgreedFailure (1) if an activation is not finite, and as the method's
// statistics do.  Collective over: dp x tp
std::vector<ExtractedDirection> extract_directions(Decoder& decoder,
                                                   const std::vector<TokenPair>& pairs,
                                                   const ExtractionSettings& settings,
                                                   const MakeStatistics& method, const Ranks& ranks,
                                                   const PassProgress& progress);

}  // namespace bipo
