// Preference pairs as token ids: the shared prompt, and what is left of each answer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "datasets/text/conversation.hpp"
#include "datasets/tokens/token_pair.hpp"

namespace bipo {

struct PreferencePair;  // datasets/rows/preference_pairs.hpp
class ChatTemplate;     // datasets/template/chat_template.hpp
class Tokenizer;        // datasets/tokenizer/tokenizer.hpp
struct SpecialTokens;   // datasets/tokenizer/tokenizer.hpp

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
