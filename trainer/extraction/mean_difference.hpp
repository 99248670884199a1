// Mean-difference directions (CAA, arXiv 2312.06681) of preference pairs: of every layer asked for,
// in one pass of the pairs through the model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "collectives/session.hpp"
#include "datasets/tokens/token_pair.hpp"
#include "trainer/cache/activation_cache.hpp"
#include "trainer/model/decoder/decoder.hpp"

namespace bipo {

// D hidden, P pairs.

// v_L = mean over the pairs of [mean of h_L over the chosen answer's positions] - [the same of the
// rejected answer], h_L being the output of block L of the model without any vector.
//
// An answer's positions are those of its own tokens, from the first one after the prompt that both
// answers share to the last one of its text.  The end-of-sequence token after it does not count:
// generation ends with that token, so that no vector is ever added to its activations.  It is also
// the row that packing leaves out, because it predicts nothing.  An answer without such a token
// (--no-eos) ends with text, and then its last row is computed, too.
struct MeanDifferenceSettings {
  std::vector<std::int64_t> layers;  // ascending, no layer twice
  bool answers_end_with_eos = true;  // as TokenizeOptions::add_eos makes them
  // All pairs go through a block before the next is loaded: one block in memory, and the
  // activations of all pairs.  Otherwise blocks 0..max L are loaded and each pair goes through them
  // by itself.  The numbers are the same.
  bool block_by_block = true;
};

struct MeanDifference {
  std::int64_t layer = 0;
  std::vector<double> value;  // [D]
  // Over all tokens of the pass, of the root mean square of h_L.
  double median_rms = 0;
};

// Throws UserError for a pair with an answer that has no position to take the mean over.  Local.
void require_answer_positions(const std::vector<TokenPair>& pairs, bool answers_end_with_eos);

// Bytes of one replica's activations while they go through the model block by block.
std::uint64_t streamed_bytes(std::int64_t hidden, const std::vector<TokenPair>& pairs, int dp);

// In the order of the layers, the same on every rank.  The model runs pair by pair; means and sums
// are float64, and the sum over pairs does not depend on how many replicas share them, so that any
// number of replicas yields the same bits.  Nothing but head and final norm is loaded afterwards.
// Throws AgreedFailure (1) where an activation is not finite. Collective over: dp x tp
std::vector<MeanDifference> mean_differences(Decoder& decoder, const std::vector<TokenPair>& pairs,
                                             const MeanDifferenceSettings& settings,
                                             const Ranks& ranks, const PassProgress& progress);

}  // namespace bipo
