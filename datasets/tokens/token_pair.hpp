// Prompts and answers as token ids, without the means that make them from text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "datasets/tokenizer/token_id.hpp"

namespace bipo {

// Whether each token of an answer is scored: a token that is not (of a user's turn inside the
// answer) is context for those after it, and no term of the answer's log-probability.  Empty: all
// are. Otherwise as long as the answer, whose last token is scored.
using ScoredTokens = std::vector<bool>;

inline bool is_scored(const ScoredTokens& scored, std::size_t token) {
  return scored.empty() || scored[token];
}

// Returns the number of scored tokens of an answer of `length` tokens.
std::int64_t scored_count(const ScoredTokens& scored, std::size_t length);

// `prompt` is the longest common prefix of the tokenised prompt, prompt+chosen and prompt+rejected;
// `chosen` and `rejected` are what follows it, never empty.  Positions of both answers continue at
// prompt.size().
struct TokenPair {
  std::vector<TokenId> prompt;
  std::vector<TokenId> chosen;
  std::vector<TokenId> rejected;
  std::string where;  // file:line of the row
  ScoredTokens chosen_scored = {};
  ScoredTokens rejected_scored = {};
};

// Several continuations of one prompt.  Neither the prompt nor any answer is empty; positions of
// every answer continue at prompt.size(), and no answer sees another.
struct Continuations {
  std::vector<TokenId> prompt;
  std::vector<std::vector<TokenId>> answers;
  std::string where;                      // file:line, for messages
  std::vector<ScoredTokens> scored = {};  // of each answer; empty: all tokens of all
};

// Covers the ids, and which of them are scored where not all are: equal pairs in equal order have
// equal hashes, from whatever file they come.
std::uint64_t tokens_hash(const std::vector<TokenPair>& pairs);

}  // namespace bipo
