// Turns conversations and their answers into one model's token ids.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "datasets/text/bos_rule.hpp"
#include "datasets/text/conversation.hpp"
#include "datasets/text/train_turns.hpp"
#include "datasets/tokens/token_pair.hpp"

namespace bipo {

struct PreferencePair;  // datasets/rows/preference_pairs.hpp
class ChatTemplate;     // datasets/template/chat_template.hpp
class Tokenizer;        // datasets/tokenizer/tokenizer.hpp
struct SpecialTokens;   // datasets/tokenizer/tokenizer.hpp

struct TokenizeOptions {
  // Put before the conversation unless that has a system turn of its own; "" sends none.  If the
  // template refuses system turns, it goes, with a blank line, before the first user turn.
  std::string system_prompt;
  BosRule bos = BosRule::kAuto;  // never a second one
  bool add_eos = true;           // exactly one after each answer
  // Tokens of prompt + longer answer; must be > 0 (the model's context).
  std::int64_t max_length = 0;
  BadRows bad_rows = BadRows::kRefuse;
  TrainTurns train_turns = TrainTurns::kAssistant;
  // The most that tokenize_pairs() works on at once; its result does not depend on it.
  std::int64_t threads = 1;
};

// The means to turn text into one model's tokens.  Refers to parts that must outlive it
// (PairTokenizer::text() refers to its own).
struct TextTools {
  const ChatTemplate& chat_template;
  const Tokenizer& tokenizer;
  const SpecialTokens& special;
  const TokenizeOptions& options;
  std::int64_t vocabulary;  // the number of ids in the model's embedding
};

struct TokenPairs {
  std::vector<TokenPair> pairs;
  std::vector<std::string> skipped;  // one message per pair left out (BadRows::kSkip)
  // What the template makes of the rows beyond ChatTemplate::left_out_of_context(): variables and
  // members of messages that it never reads, further ends of prompts that are left out.
  std::vector<std::string> warnings;
};

// Renders and tokenises every pair, prompt and answer jointly: the conversation with the answer is
// rendered as a whole, and the answer begins where its tokens and those of the prompt with its
// generation header begin to differ (the rule of TRL 1.16).  Unlike TRL, what the template writes
// after the answer is replaced by EOS (see options.add_eos).  Of an answer of several turns,
// options.train_turns chooses the scored tokens; turns after the last assistant's are left out.
// Throws UserError naming the row
// when a pair is longer than max_length or an answer has no token of its own, or when EOS is
// requested and the model names none.  Does not check ids against the vocabulary.
TokenPairs tokenize_pairs(const std::vector<PreferencePair>& pairs, const TextTools& text);

// How an answer ends.
enum class AnswerEnd {
  kEos,   // with exactly one EOS, if options.add_eos is set
  kOpen,  // with its text: the model may continue
};

// All of these follow tokenize_pairs() in the system prompt, BOS, the joint tokenisation and the
// limit of prompt + longest answer.  They throw UserError without naming the place, which the
// caller must add (`where` is only copied).

// Renders the conversation up to the header of the turn that answers it, where generation begins,
// with all that the template puts there (such as "<think>\n").  `variables`: an object, of the
// conversation's own.
std::vector<TokenId> tokenize_prompt(
    const std::vector<Message>& prompt, const TextTools& text,
    const nlohmann::ordered_json& variables = nlohmann::ordered_json::object());

// `answers` as the assistant's next turn.  kOpen ends each with its own last character, without the
// text that a template puts after an answer.
Continuations tokenize_answers(const std::vector<Message>& prompt,
                               const std::vector<std::string>& answers, AnswerEnd end,
                               const TextTools& text, const std::string& where);

// Plain text without a chat template or system prompt, and without EOS.
Continuations tokenize_plain_text(const std::string& prompt,
                                  const std::vector<std::string>& answers, const TextTools& text,
                                  const std::string& where);

// A model's own output after the rendered prompt, unaltered and without EOS: its text, or the
// tokens themselves.
Continuations continue_with_text(
    const std::vector<Message>& prompt, const std::string& answer, const TextTools& text,
    const std::string& where,
    const nlohmann::ordered_json& variables = nlohmann::ordered_json::object());
Continuations continue_with_tokens(
    const std::vector<Message>& prompt, const std::vector<TokenId>& answer, const TextTools& text,
    const std::string& where,
    const nlohmann::ordered_json& variables = nlohmann::ordered_json::object());

// Returns the tokens that precede a plain text by options.bos.  Throws UserError for
// BosRule::kAlways where the model names no BOS.
std::vector<TokenId> tokens_before_text(const TextTools& text);

// Throws UserError for an id outside the model's vocabulary; all of the above check this.
void require_known_ids(const std::vector<TokenId>& tokens, std::int64_t vocabulary);

// Returns the tokens that end a generated answer: EOS, the model's further end tokens, and the
// special token, if there is one, by which the chat template ends an answer (Gemma's <end_of_turn>,
// which is not its EOS).  Each once, ascending.
std::vector<TokenId> stop_tokens(const TextTools& text);

}  // namespace bipo
