// Preference pairs as token ids: the shared prompt, and what is left of each answer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "datasets/rows/preference_pairs.hpp"
#include "datasets/template/chat_template.hpp"
#include "datasets/tokenizer/tokenizer.hpp"

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

// Of the ids alone: equal for equal pairs in equal order, wherever they were read.
std::uint64_t tokens_hash(const std::vector<TokenPair>& pairs);

struct TokenizeOptions {
  // Put before the conversation unless it brings a system turn of its own; "" sends none.  Where
  // the template refuses system turns it goes, with a blank line, before the first user turn.
  std::string system_prompt;
  bool add_bos = true;  // only where the tokenizer has one and the prompt does not begin with it
  bool add_eos = true;  // exactly one after each answer
  std::int64_t max_length =
      0;  // tokens of prompt + longer answer; must be > 0 (the model's context)
  BadRows bad_rows = BadRows::kRefuse;
};

struct TokenPairs {
  std::vector<TokenPair> pairs;
  std::vector<std::string> skipped;  // one message per pair left out (BadRows::kSkip)
};

// Renders and tokenises every pair, prompt and answer jointly.  Throws UserError naming the row
// when a pair is longer than max_length or an answer has no token of its own, or when EOS is asked
// for and the model names none.
TokenPairs tokenize_pairs(const std::vector<PreferencePair>& pairs,
                          const ChatTemplate& chat_template, const Tokenizer& tokenizer,
                          const SpecialTokens& special, const TokenizeOptions& options);

}  // namespace bipo
