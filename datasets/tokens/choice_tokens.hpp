// Multiple-choice items as the prompts and answers of one model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "datasets/rows/choice_items.hpp"
#include "datasets/tokens/tokenization.hpp"

namespace bipo {

struct TokenizedChoice {
  std::size_t item = 0;  // index into ChoiceSet::items
  Continuations tokens;  // answers[i] belongs to the item's choices[i]
};

struct TokenizedChoices {
  std::vector<TokenizedChoice> items;
  std::vector<std::string> skipped;  // one message per item left out (options.bad_rows is kSkip)
  std::int64_t fewer_shots = 0;      // MMLU: items with fewer than five examples, to fit
};

// A/B: one user turn with the question, a blank line, and the lines "Choices:", " (A) ...", " (B)
// ..." (the form of Anthropic's model-written evaluations, which CAA and steering-bench use); the
// answers are "(A" and "(B" without an end, so that their difference is CAA's difference of the
// letters' log-probabilities.
//
// MC: one user turn with the question alone, the choices' texts as answers with EOS.
//
// MMLU: plain text as in lm-evaluation-harness ("The following are multiple choice questions (with
// answers) about high school physics.", a blank line, the examples with their letters, the question
// and "Answer:"); the answers are " A" to " D".  If five examples do not fit into
// options.max_length, the last ones are left out, as in hendrycks/test.
//
// Throws UserError naming the item when tokenize_answers() throws.
TokenizedChoices tokenize_choices(const ChoiceSet& set, const TextTools& text);

// Returns A/B items as pairs whose chosen answer is the matching letter, "(A" or "(B", and whose
// rejected answer is the other; of each answer only the last token is scored, the letter's.
std::vector<TokenPair> letter_pairs(const ChoiceSet& set, const TokenizedChoices& tokens);

}  // namespace bipo
