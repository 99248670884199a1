// What a forward pass without a backward one takes on an accelerator at least.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "datasets/tokens/token_pair.hpp"
#include "trainer/cost/cost.hpp"

namespace bipo {

// A packed batch: T tokens, U of which are scored by the head.
struct ForwardBatch {
  double tokens = 0;
  double scored = 0;

  // Whether a pass over this takes no more than one over the other.
  bool is_within(const ForwardBatch& other) const;
};

// Rows that go through a block together, in spans of queries that see the same keys before them:
// attention in slots pads every span to the longest.
struct BlockRows {
  double tokens = 0;
  double spans = 0;
  double longest_queries = 0;
  double longest_keys = 0;

  // Whether a pass of these takes no more than one of the others.
  bool is_within(const BlockRows& others) const;
  // Adds a sequence of so many tokens that shares none with others.
  void add_sequence(double length);
};

// Remembers passes, to tell which may take more than all before: one that is within what several
// have together may take more than each of them.
template <typename Counts>  // ForwardBatch or BlockRows
class SeenPasses {
 public:
  // Returns whether the pass may take more than each one before, and remembers it then.
  bool add(const Counts& pass) {
    if (std::any_of(passes_.begin(), passes_.end(),
                    [&](const Counts& other) { return pass.is_within(other); })) {
      return false;
    }
    std::erase_if(passes_, [&](const Counts& other) { return other.is_within(pass); });
    passes_.push_back(pass);
    return true;
  }

 private:
  std::vector<Counts> passes_;  // none is within another
};

// Returns the rows of pairs that are steered alike and packed together; `pairs` must not be empty.
BlockRows rows_of_pack(const std::vector<TokenPair>& pairs);

// The functions below return bytes of one of `tp` ranks, weights aside, that tensors of the pass
// hold at one time whatever kernels compute it: a device with less has certainly no room, one with
// more may have none.  On a real device tables and what the allocator loses come on top.

// A pass of these rows through each block [N], which returns all of them: in attention the rows,
// their products, and queries, keys, values and result in slots for each head of queries, with a
// cap of scores these and the weights; or three rows of the residual stream and what the MLP makes
// of them.  `flash`: blocks without a cap may attend without slots, which is then not counted.
std::vector<double> least_block_bytes(const ModelConfig& config, std::int64_t tp,
                                      const ElementBytes& bytes, const BlockRows& rows, bool flash);

// The logits of the tokens that follow so many rows, whole on every rank, beside the rows.
double least_logits_bytes(const ModelConfig& config, std::int64_t tp, double rows);

// Attention's slots are not counted in these two.
//
// Scores of a batch, as score_continuations() makes them: three rows of the residual stream for
// each token, and what the MLP makes of it; or the logits of one block of the head's rows.
double least_scoring_bytes(const ModelConfig& config, std::int64_t tp, const ElementBytes& bytes,
                           const ForwardBatch& batch);

// Divergences at `settings` of steering, as prompt_divergences() computes them for T tokens: the
// outputs of all settings and the model's own are kept, and five float64 of each logit in a block
// of the head's rows.
double least_divergence_bytes(const ModelConfig& config, std::int64_t tp, const ElementBytes& bytes,
                              double tokens, double settings);

}  // namespace bipo
