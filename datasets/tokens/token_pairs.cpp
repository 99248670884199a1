// Renders preference pairs through a chat template and splits their token ids into prompt and
// answers.
#include "datasets/tokens/token_pairs.hpp"

#include <fmt/format.h>

#include <cstddef>
#include <utility>

#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "datasets/rows/preference_pairs.hpp"
#include "datasets/template/chat_template.hpp"
#include "datasets/tokenizer/tokenizer.hpp"
#include "datasets/tokens/joint_tokens.hpp"

namespace bipo {
namespace {

using Tokens = std::vector<TokenId>;

TokenPair tokenize_pair(const PreferencePair& pair, const ChatTemplate& chat_template,
                        const Tokenizer& tokenizer, const SpecialTokens& special,
                        const TokenizeOptions& options) {
  const std::string prompt = chat_template.render_prompt(
      with_system_prompt(pair.prompt, options.system_prompt, chat_template.takes_system_turn()));
  JointTokens joint = split_jointly(
      prompt,
      {chat_template.render_answer(pair.chosen), chat_template.render_answer(pair.rejected)},
      tokenizer);
  TokenPair tokens{std::move(joint.prompt), std::move(joint.answers[0]),
                   std::move(joint.answers[1]), pair.where};
  require_answer_token(tokens.chosen, "chosen answer");
  require_answer_token(tokens.rejected, "rejected answer");
  begin_with_bos(tokens.prompt, special, options);
  require_prompt_token(tokens.prompt);
  end_with_eos(tokens.chosen, special, options);
  end_with_eos(tokens.rejected, special, options);
  require_fits(tokens.prompt.size(),
               {{"chosen", tokens.chosen.size()}, {"rejected", tokens.rejected.size()}},
               options.max_length);
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
  require_eos(special, options);
  TokenPairs result;
  for (const PreferencePair& pair : pairs) {
    try {
      result.pairs.push_back(tokenize_pair(pair, chat_template, tokenizer, special, options));
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
