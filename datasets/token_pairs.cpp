// Renders preference pairs through a chat template and splits their token ids into prompt and
// answers.
#include "datasets/token_pairs.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "collectives/content_hash.hpp"
#include "collectives/errors.hpp"

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

std::vector<Message> conversation(const PreferencePair& pair, const std::string& system_prompt,
                                  bool takes_system_turn) {
  std::vector<Message> messages = pair.prompt;
  const bool brings_its_own = std::any_of(
      messages.begin(), messages.end(), [](const Message& turn) { return turn.role == "system"; });
  if (!brings_its_own && !system_prompt.empty()) {
    messages.insert(messages.begin(), Message{"system", system_prompt});
  }
  if (!takes_system_turn && !messages.empty() && messages.front().role == "system") {
    fold_system_turn_into_first_user_turn(messages);
  }
  return messages;
}

std::ptrdiff_t common_prefix_length(const Tokens& a, const Tokens& b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

// Joint tokenisation may merge the prompt's last characters with an answer's first ones, so the
// shared part can be shorter than the prompt by itself.
TokenPair split_jointly(const std::string& prompt, const std::string& chosen,
                        const std::string& rejected, const Tokenizer& tokenizer) {
  const Tokens alone = tokenizer.encode(prompt);
  const Tokens with_chosen = tokenizer.encode(prompt + chosen);
  const Tokens with_rejected = tokenizer.encode(prompt + rejected);
  const std::ptrdiff_t shared = std::min(common_prefix_length(alone, with_chosen),
                                         common_prefix_length(alone, with_rejected));
  TokenPair pair;
  pair.prompt.assign(alone.begin(), alone.begin() + shared);
  pair.chosen.assign(with_chosen.begin() + shared, with_chosen.end());
  pair.rejected.assign(with_rejected.begin() + shared, with_rejected.end());
  return pair;
}

void end_with(Tokens& answer, TokenId eos) {
  if (answer.back() != eos) {
    answer.push_back(eos);
  }
}

void require_own_token(const Tokens& answer, const char* which) {
  if (answer.empty()) {
    throw UserError(
        fmt::format("the {} answer has no token of its own after the prompt; change the answer, or "
                    "leave the row "
                    "out with --skip-bad",
                    which));
  }
}

void require_fits(const TokenPair& pair, std::int64_t max_length) {
  const std::size_t total = pair.prompt.size() + std::max(pair.chosen.size(), pair.rejected.size());
  if (static_cast<std::int64_t>(total) > max_length) {
    throw UserError(fmt::format(
        "the pair has {} tokens (prompt {}, chosen {}, rejected {}; prompt and longer answer "
        "count), but the limit is {}; shorten the row, raise --max-length where the model's "
        "context "
        "allows it, or leave the row out with --skip-bad",
        total, pair.prompt.size(), pair.chosen.size(), pair.rejected.size(), max_length));
  }
}

TokenPair tokenize_pair(const PreferencePair& pair, const ChatTemplate& chat_template,
                        bool takes_system_turn, const Tokenizer& tokenizer,
                        const SpecialTokens& special, const TokenizeOptions& options) {
  const std::string prompt =
      chat_template.render_prompt(conversation(pair, options.system_prompt, takes_system_turn));
  TokenPair tokens = split_jointly(prompt, chat_template.render_answer(pair.chosen),
                                   chat_template.render_answer(pair.rejected), tokenizer);
  tokens.where = pair.where;
  require_own_token(tokens.chosen, "chosen");
  require_own_token(tokens.rejected, "rejected");
  if (options.add_bos && special.bos &&
      (tokens.prompt.empty() || tokens.prompt.front() != *special.bos)) {
    tokens.prompt.insert(tokens.prompt.begin(), *special.bos);
  }
  if (tokens.prompt.empty()) {
    throw UserError(
        "the prompt has no token of its own, so nothing predicts the answer's first token; change "
        "the row, or leave it out with --skip-bad");
  }
  if (options.add_eos) {
    end_with(tokens.chosen, *special.eos);
    end_with(tokens.rejected, *special.eos);
  }
  require_fits(tokens, options.max_length);
  return tokens;
}

}  // namespace

std::uint64_t tokens_hash(const std::vector<TokenPair>& pairs) {
  ContentHash hash;
  hash.add(std::uint64_t{pairs.size()});
  for (const TokenPair& pair : pairs) {
    for (const Tokens* part : {&pair.prompt, &pair.chosen, &pair.rejected}) {
      hash.add(std::uint64_t{part->size()});
      hash.add_bytes(part->data(), part->size() * sizeof(TokenId));
    }
  }
  return hash.value();
}

TokenPairs tokenize_pairs(const std::vector<PreferencePair>& pairs,
                          const ChatTemplate& chat_template, const Tokenizer& tokenizer,
                          const SpecialTokens& special, const TokenizeOptions& options) {
  if (options.max_length < 1) {
    throw BugError(fmt::format("pairs tokenised with a limit of {} tokens", options.max_length));
  }
  if (options.add_eos && !special.eos) {
    throw UserError(
        "the model names no end-of-sequence token to put after the answers; name eos_token in its "
        "tokenizer_config.json, or use --no-eos");
  }
  const bool takes_system_turn = chat_template.takes_system_turn();
  TokenPairs result;
  for (const PreferencePair& pair : pairs) {
    try {
      result.pairs.push_back(
          tokenize_pair(pair, chat_template, takes_system_turn, tokenizer, special, options));
    } catch (const UserError& error) {
      const std::string message = fmt::format("{}: {}", pair.where, error.what());
      if (options.bad_rows == BadRows::kRefuse) {
        throw UserError(message);
      }
      result.skipped.push_back(message);
    }
  }
  if (result.pairs.empty() && !result.skipped.empty()) {
    throw UserError(fmt::format("every pair was left out by --skip-bad; the first: {}",
                                result.skipped.front()));
  }
  return result;
}

}  // namespace bipo
