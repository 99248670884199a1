// Packs preference pairs into one batch of tokens without padding.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "datasets/token_pairs.hpp"
#include "trainer/model/graph.hpp"
#include "trainer/model/sequence_layout.hpp"

namespace bipo {

// P pairs, T packed tokens, R predicting rows.
//
// A pair is [prompt | chosen | rejected]: both answers attend to the prompt and to themselves, and
// their positions continue at the prompt's end.  The last token of an answer predicts nothing and
// is left out.
struct PackedPairs {
  at::Tensor ids;  // [T] int64
  SequenceLayout layout;
  at::Tensor rows;     // [R] int64: the row before each answer token
  at::Tensor targets;  // [R] int64: that answer token
  std::vector<std::int64_t>
      answer_of_row;  // [R] 2 p for pair p's chosen answer, 2 p + 1 for its rejected one
  std::vector<std::int64_t> pair_of_token;  // [T]
  std::int64_t pairs = 0;                   // P

  std::int64_t tokens() const { return static_cast<std::int64_t>(pair_of_token.size()); }
};

// Tokens that packing a pair takes.
std::int64_t packed_size(const TokenPair& pair);

PackedPairs pack_pairs(const std::vector<TokenPair>& pairs,
                       const std::vector<std::int64_t>& indices, const Decoder& decoder);

}  // namespace bipo
