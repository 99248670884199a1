// The steps from a conversation and its answers to token ids, which preference pairs and other
// continuations share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "datasets/text/conversation.hpp"
#include "datasets/tokenizer/token_id.hpp"

namespace bipo {

class Tokenizer;         // datasets/tokenizer/tokenizer.hpp
struct SpecialTokens;    // datasets/tokenizer/tokenizer.hpp
struct TokenizeOptions;  // datasets/tokens/token_pairs.hpp

// `prompt` with the system prompt ("" is none) before it unless it brings a system turn of its own.
// Where the template takes no system turn the text goes, with a blank line, before the first user
// turn.
std::vector<Message> with_system_prompt(std::vector<Message> prompt,
                                        const std::string& system_prompt, bool takes_system_turn);

// `prompt` is the longest common prefix of the tokenised prompt and all of prompt + answer, and
// `answers` what follows it.  Any of them may be empty.
struct JointTokens {
  std::vector<TokenId> prompt;
  std::vector<std::vector<TokenId>> answers;
};
JointTokens split_jointly(const std::string& prompt, const std::vector<std::string>& answers,
                          const Tokenizer& tokenizer);

// Puts BOS where the options ask for it, the tokenizer has one, and `tokens` do not begin with it.
void begin_with_bos(std::vector<TokenId>& tokens, const SpecialTokens& special,
                    const TokenizeOptions& options);

// Puts EOS where the options ask for it and a non-empty `answer` does not end with it.
void end_with_eos(std::vector<TokenId>& answer, const SpecialTokens& special,
                  const TokenizeOptions& options);

// An answer's name and number of tokens.
using AnswerLength = std::pair<const char*, std::size_t>;

// These throw UserError without naming the place: where EOS is asked for and the model names none;
// for an answer and for a prompt without a token; where the prompt and its longest answer have more
// than `max_length` tokens together.
void require_eos(const SpecialTokens& special, const TokenizeOptions& options);
void require_answer_token(const std::vector<TokenId>& answer, const std::string& which);
void require_prompt_token(const std::vector<TokenId>& prompt);
void require_fits(std::size_t prompt, const std::vector<AnswerLength>& answers,
                  std::int64_t max_length);

}  // namespace bipo
