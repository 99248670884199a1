// Prompts as token ids, each with the continuations whose log-probabilities are asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "datasets/text/conversation.hpp"
#include "datasets/tokens/token_pair.hpp"

namespace bipo {

class ChatTemplate;      // datasets/template/chat_template.hpp
class Tokenizer;         // datasets/tokenizer/tokenizer.hpp
struct SpecialTokens;    // datasets/tokenizer/tokenizer.hpp
struct TokenizeOptions;  // datasets/tokens/token_pairs.hpp

// What turns text into one model's tokens.  Refers to parts that must outlive it
// (PairTokenizer::text() gives its own).
struct TextTools {
  const ChatTemplate& chat_template;
  const Tokenizer& tokenizer;
  const SpecialTokens& special;
  const TokenizeOptions& options;
  std::int64_t vocabulary;  // ids that the model's embedding knows
};

// What ends an answer.
enum class AnswerEnd {
  kEos,   // exactly one EOS, where options.add_eos asks for one
  kOpen,  // nothing: the model may go on
};

// All of these follow tokenize_pairs() in the system prompt, BOS, the joint tokenisation and the
// limit of prompt + longest answer.  They throw UserError without naming the place, which is the
// caller's to put before it (`where` is only copied).

// The conversation, rendered up to the header of the turn that answers it: what generation begins
// with.
std::vector<TokenId> tokenize_prompt(const std::vector<Message>& prompt, const TextTools& text);

// `answers` as the assistant's next turn.  kOpen ends each with its own last character: what a
// template puts behind an answer is left out.
Continuations tokenize_answers(const std::vector<Message>& prompt,
                               const std::vector<std::string>& answers, AnswerEnd end,
                               const TextTools& text, const std::string& where);

// Plain text without a chat template or system prompt, and without EOS.
Continuations tokenize_plain_text(const std::string& prompt,
                                  const std::vector<std::string>& answers, const TextTools& text,
                                  const std::string& where);

// What a model wrote after the rendered prompt, as it stands and without EOS: its text, or the
// tokens themselves.
Continuations continue_with_text(const std::vector<Message>& prompt, const std::string& answer,
                                 const TextTools& text, const std::string& where);
Continuations continue_with_tokens(const std::vector<Message>& prompt,
                                   const std::vector<TokenId>& answer, const TextTools& text,
                                   const std::string& where);

// For an id that the model does not know, which all of the above look for.
void require_known_ids(const std::vector<TokenId>& tokens, std::int64_t vocabulary);

}  // namespace bipo
