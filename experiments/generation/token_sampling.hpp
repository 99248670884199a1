// Chooses the next token from a model's logits.
#pragma once

#include <cstdint>
#include <span>

#include "datasets/tokenizer/token_id.hpp"

namespace bipo {

// V vocabulary.

// As in transformers' generate: the logits of tokens that have occurred are lowered by the
// repetition penalty (Keskar et al., arXiv 1909.05858, section 4.1), then divided by the
// temperature, then only the top_k likeliest tokens remain, and of these the likeliest whose
// probabilities together reach top_p (Holtzman et al., arXiv 1904.09751, section 3.1).
struct SamplingSettings {
  double temperature = 0;         // 0: always the likeliest token (greedy)
  std::int64_t top_k = 0;         // 0: all
  double top_p = 1;               // in (0, 1]
  double repetition_penalty = 1;  // above 0; 1: none
  std::uint64_t seed = 11;
};

// What a random number is drawn for.  It depends on nothing else, neither on the batch nor on
// ranks.
struct DrawPlace {
  std::uint32_t prompt = 0;
  std::uint32_t setting = 0;  // index of the multipliers
  std::uint32_t step = 0;     // of the text, from 0
};

// Divides the positive logits of the tokens that `prompt` and `text` hold by the penalty, and
// multiplies the negative ones by it, each token once, as RepetitionPenaltyLogitsProcessor of
// transformers does.  Ignores tokens outside of `logits` [V].
void penalise_repetition(std::span<float> logits, std::span<const TokenId> prompt,
                         std::span<const TokenId> text, double penalty);

// Chooses the next token after `logits` [V]; among equally likely tokens the lowest id.  Throws
// EnvironmentError if a logit is NaN or positive infinity.
TokenId sample_token(std::span<const float> logits, const SamplingSettings& settings,
                     DrawPlace place);

}  // namespace bipo
