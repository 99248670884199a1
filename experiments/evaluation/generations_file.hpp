// Reads files of generations: JSON Lines with one steered answer each.  Local.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "datasets/text/conversation.hpp"
#include "datasets/tokenizer/token_id.hpp"
#include "datasets/tokens/token_pair.hpp"

namespace bipo {

struct TextTools;  // datasets/tokens/tokenization.hpp

struct Generation {
  std::int64_t prompt_index = 0;  // from 0
  std::vector<Message> prompt;    // ends with the user turn that was answered
  // An object: the variables with which the chat template rendered the prompt.
  nlohmann::ordered_json template_variables = nlohmann::ordered_json::object();
  double multiplier = 0;
  std::string text;                            // may be empty
  std::optional<std::vector<TokenId>> tokens;  // of the model that made them
  std::optional<double> mean_logprob;          // nats per token
  std::string finish_reason;                   // "stop", "length" or "": not known
  std::string where;                           // file:line
};

// Reads objects with prompt_index, prompt (text of the user turn, or an array of messages),
// multiplier, text and, if known, template_variables, tokens, mean_logprob and finish_reason, in
// the file's order. Ignores other members; null counts as absent.  Throws UserError with file:line
// for anything else, for a second answer to the same prompt_index at the same multiplier, for one
// prompt_index with two prompts, and for a file without a row.
std::vector<Generation> read_generations(const std::filesystem::path& path);

struct GenerationTokens {
  std::vector<Continuations> items;  // one answer each
  std::vector<std::size_t> rows;     // of each item: the index of its generation
  std::vector<std::string> skipped;  // answers without text and, with BadRows::kSkip, bad rows
};

// Tokenises the answers after their rendered prompts, for this model to score.  Scores are those of
// the text: the token that ended an answer is left out, whatever finish_reason and options.add_eos
// are.  Uses a row's own tokens, without EOS and other stop_tokens() at their end, where none of
// these remain and this tokenizer decodes them to the row's text; otherwise tokenises the text
// jointly with the prompt.  The options must be those of the generation.  Throws UserError naming
// the row, and where no answer has a token.
GenerationTokens tokenize_generations(const std::vector<Generation>& generations,
                                      const TextTools& text);

}  // namespace bipo
