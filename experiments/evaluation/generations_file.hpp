// Reads files of generations: JSON Lines with one steered answer each.  Local.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
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
  double multiplier = 0;
  std::string text;                            // may be empty
  std::optional<std::vector<TokenId>> tokens;  // of the model that made them
  std::optional<double> mean_logprob;          // nats per token
  std::string finish_reason;                   // "stop", "length" or "" where the file has none
  std::string where;                           // file:line
};

// Objects with prompt_index, prompt (text of the user turn, or an array of messages), multiplier,
// text and, if known, tokens, mean_logprob and finish_reason; further members are ignored, a null
// is an absent member.  In the file's order.  Throws UserError with file:line for anything else,
// for a second answer to the same prompt_index at the same multiplier, for one prompt_index with
// two prompts, and for a file without a row.
std::vector<Generation> read_generations(const std::filesystem::path& path);

struct GenerationTokens {
  std::vector<Continuations> items;  // one answer each
  std::vector<std::size_t> rows;     // of each item: the index of its generation
  std::vector<std::string> skipped;  // answers without text and, with BadRows::kSkip, bad rows
};

// The answers after their rendered prompts, for this model to score.  What ended an answer is never
// among its tokens, whatever finish_reason and options.add_eos say: scores are those of the text.
// A row's own tokens, but for EOS and other stop_tokens() at their end, are used where no such
// token is left and this tokenizer decodes them to the row's text; otherwise the text is tokenised
// jointly with the prompt.  The options must be those that the generations were made with.  Throws
// UserError naming the row, and where no answer has a token.
GenerationTokens tokenize_generations(const std::vector<Generation>& generations,
                                      const TextTools& text);

}  // namespace bipo
