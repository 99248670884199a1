// Prompts and answers as token ids, without the means that make them from text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "datasets/tokenizer/token_id.hpp"

namespace bipo {

// `prompt` is the longest common prefix of the tokenised prompt, prompt+chosen and prompt+rejected;
// `chosen` and `rejected` are what follows it, never empty.  Positions of both answers continue at
// prompt.size().
struct TokenPair {
  std::vector<TokenId> prompt;
  std::vector<TokenId> chosen;
  std::vector<TokenId> rejected;
  std::string where;  // file:line of the row
};

// Several continuations of one prompt.  Neither the prompt nor any answer is empty; positions of
// every answer continue at prompt.size(), and no answer sees another.
struct Continuations {
  std::vector<TokenId> prompt;
  std::vector<std::vector<TokenId>> answers;
  std::string where;  // file:line, for messages
};

// Covers the ids only: equal pairs in equal order have equal hashes, from whatever file they come.
std::uint64_t tokens_hash(const std::vector<TokenPair>& pairs);

}  // namespace bipo
