// The steps from a conversation and its answers to token ids, which preference pairs and other
// continuations share.
#include "datasets/tokens/joint_tokens.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/tokenizer/tokenizer.hpp"
#include "datasets/tokens/token_pairs.hpp"

namespace bipo {
namespace {

using Tokens = std::vector<TokenId>;

// A template that refuses system turns gets the text where its users put it by hand.
void fold_system_turn_into_first_user_turn(std::vector<Message>& messages) {
  const std::string text = messages.front().content;
  messages.erase(messages.begin());
  const auto user = std::find_if(messages.begin(), messages.end(),
                                 [](const Message& turn) { return turn.role == "user"; });
  if (user != messages.end() && !text.empty()) {
    user->content = text + "\n\n" + user->content;
  }
}

std::ptrdiff_t common_prefix_length(const Tokens& a, const Tokens& b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

}  // namespace

std::vector<Message> with_system_prompt(std::vector<Message> prompt,
                                        const std::string& system_prompt, bool takes_system_turn) {
  const bool brings_its_own = std::any_of(
      prompt.begin(), prompt.end(), [](const Message& turn) { return turn.role == "system"; });
  if (!brings_its_own && !system_prompt.empty()) {
    prompt.insert(prompt.begin(), Message{"system", system_prompt});
  }
  if (!takes_system_turn && !prompt.empty() && prompt.front().role == "system") {
    fold_system_turn_into_first_user_turn(prompt);
  }
  return prompt;
}

// Joint tokenisation may merge the prompt's last characters with an answer's first ones, so the
// shared part can be shorter than the prompt by itself.
JointTokens split_jointly(const std::string& prompt, const std::vector<std::string>& answers,
                          const Tokenizer& tokenizer) {
  const Tokens alone = tokenizer.encode(prompt);
  auto shared = static_cast<std::ptrdiff_t>(alone.size());
  JointTokens result;
  for (const std::string& answer : answers) {
    result.answers.push_back(tokenizer.encode(prompt + answer));
    shared = std::min(shared, common_prefix_length(alone, result.answers.back()));
  }
  result.prompt.assign(alone.begin(), alone.begin() + shared);
  for (Tokens& answer : result.answers) {
    answer.erase(answer.begin(), answer.begin() + shared);
  }
  return result;
}

void begin_with_bos(Tokens& tokens, const SpecialTokens& special, const TokenizeOptions& options) {
  if (options.add_bos && special.bos && (tokens.empty() || tokens.front() != *special.bos)) {
    tokens.insert(tokens.begin(), *special.bos);
  }
}

void end_with_eos(Tokens& answer, const SpecialTokens& special, const TokenizeOptions& options) {
  if (options.add_eos && answer.back() != *special.eos) {
    answer.push_back(*special.eos);
  }
}

void require_eos(const SpecialTokens& special, const TokenizeOptions& options) {
  if (options.add_eos && !special.eos) {
    throw UserError(
        "the model names no end-of-sequence token to put after the answers; name eos_token in its "
        "tokenizer_config.json, or use --no-eos");
  }
}

void require_answer_token(const Tokens& answer, const std::string& which) {
  if (answer.empty()) {
    throw UserError(
        fmt::format("the {} has no token of its own after the prompt; change the answer, or leave "
                    "the row out with --skip-bad",
                    which));
  }
}

void require_prompt_token(const Tokens& prompt) {
  if (prompt.empty()) {
    throw UserError(
        "the prompt has no token of its own, so nothing predicts the answer's first token; change "
        "the row, or leave it out with --skip-bad");
  }
}

void require_fits(std::size_t prompt, const std::vector<AnswerLength>& answers,
                  std::int64_t max_length) {
  std::size_t longest = 0;
  for (const auto& [name, length] : answers) {
    longest = std::max(longest, length);
  }
  if (static_cast<std::int64_t>(prompt + longest) <= max_length) {
    return;
  }
  std::string parts = fmt::format("prompt {}", prompt);
  for (const auto& [name, length] : answers) {
    parts += fmt::format(", {} {}", name, length);
  }
  throw UserError(fmt::format(
      "prompt and longest answer have {} tokens ({}), but the limit is {}; shorten the row, raise "
      "--max-length where the model's context allows it, or leave the row out with --skip-bad",
      prompt + longest, parts, max_length));
}

}  // namespace bipo
