#include "datasets/tokens/tokenization.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <set>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/rows/preference_pairs.hpp"
#include "datasets/template/chat_template.hpp"
#include "datasets/text/row_collector.hpp"
#include "datasets/tokenizer/tokenizer.hpp"

namespace bipo {
namespace {

using Tokens = std::vector<TokenId>;

// Puts the system text where users of templates without system turns put it by hand.
void fold_system_turn_into_first_user_turn(std::vector<Message>& messages) {
  const std::string text = messages.front().content;
  messages.erase(messages.begin());
  const auto user = std::find_if(messages.begin(), messages.end(),
                                 [](const Message& turn) { return turn.role == "user"; });
  if (user != messages.end() && !text.empty()) {
    user->content = text + "\n\n" + user->content;
  }
}

// Renders `prompt` with the system prompt before it unless it has a system turn of its own.
std::string render(std::vector<Message> prompt, const TextTools& text) {
  const std::string& system_prompt = text.options.system_prompt;
  const bool has_system_turn = std::any_of(
      prompt.begin(), prompt.end(), [](const Message& turn) { return turn.role == "system"; });
  if (!has_system_turn && !system_prompt.empty()) {
    prompt.insert(prompt.begin(), Message{"system", system_prompt});
  }
  const bool begins_with_system = !prompt.empty() && prompt.front().role == "system";
  if (begins_with_system && !text.chat_template.takes_system_turn()) {
    fold_system_turn_into_first_user_turn(prompt);
  }
  return text.chat_template.render_prompt(prompt);
}

// Renders the answer with the template's text before it, but without the text after it.
std::string render_open_answer(const std::string& answer, const ChatTemplate& chat_template) {
  const std::string rendered = chat_template.render_answer(answer);
  const std::size_t at = rendered.rfind(answer);
  if (at == std::string::npos) {
    throw UserError(
        fmt::format("the chat template renders the answer '{}' as '{}', in which its end cannot be "
                    "found; choose another one with --chat-template",
                    answer, rendered));
  }
  return rendered.substr(0, at + answer.size());
}

std::ptrdiff_t common_prefix_length(const Tokens& a, const Tokens& b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

// Returns the longest common prefix of the tokenised prompt and all of prompt + answer, and what
// follows it as answers; any of them may be empty.  Joint tokenisation may merge the prompt's last
// characters with an answer's first ones, so the prefix can be shorter than the prompt by itself.
Continuations split_jointly(const std::string& prompt, const std::vector<std::string>& answers,
                            const Tokenizer& tokenizer) {
  const Tokens alone = tokenizer.encode(prompt);
  auto shared = static_cast<std::ptrdiff_t>(alone.size());
  Continuations result;
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

Tokens tokens_before(const TextTools& text, bool is_plain) {
  const SpecialTokens& special = text.special;
  switch (text.options.bos) {
    case BosRule::kAuto:
      return is_plain ? special.before_text : Tokens();
    case BosRule::kAlways:
      if (!special.bos) {
        throw UserError(
            "--bos always: the model names no begin-of-sequence token; name bos_token in its "
            "tokenizer_config.json, or use --bos auto");
      }
      return {*special.bos};
    case BosRule::kNever:
    case BosRule::kEarlierNever:
      return {};
    case BosRule::kEarlier:
      return special.earlier_bos ? Tokens{*special.earlier_bos} : Tokens();
  }
  throw BugError(fmt::format("BOS rule {} is not known", static_cast<int>(text.options.bos)));
}

void begin_with(const Tokens& before, Tokens& tokens) {
  const bool is_there =
      before.size() <= tokens.size() && std::equal(before.begin(), before.end(), tokens.begin());
  if (!is_there) {
    tokens.insert(tokens.begin(), before.begin(), before.end());
  }
}

bool is_plain_form(const TextTools& text) {
  return text.chat_template.name() == kPlainForm;
}

// Puts a BOS before a rendered conversation as the options want it.
void begin_prompt(Tokens& tokens, const TextTools& text) {
  begin_with(tokens_before(text, is_plain_form(text)), tokens);
}

void end_with_eos(Tokens& answer, const TextTools& text) {
  if (text.options.add_eos && answer.back() != *text.special.eos) {
    answer.push_back(*text.special.eos);
  }
}

void require_limit(const TokenizeOptions& options) {
  if (options.max_length < 1) {
    throw BugError(fmt::format("text tokenised with a limit of {} tokens", options.max_length));
  }
}

void require_eos(const TextTools& text) {
  if (text.options.add_eos && !text.special.eos) {
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

// The names and lengths of answers.
using AnswerLengths = std::vector<std::pair<const char*, std::size_t>>;

void require_fits(std::size_t prompt, const AnswerLengths& answers, std::int64_t max_length) {
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
      "--max-length if the model's context allows it, or leave the row out with --skip-bad",
      prompt + longest, parts, max_length));
}

Continuations checked(Continuations tokens, const TextTools& text) {
  require_prompt_token(tokens.prompt);
  require_known_ids(tokens.prompt, text.vocabulary);
  std::size_t longest = 0;
  for (const Tokens& answer : tokens.answers) {
    require_known_ids(answer, text.vocabulary);
    longest = std::max(longest, answer.size());
  }
  require_fits(tokens.prompt.size(), {{"longest answer", longest}}, text.options.max_length);
  return tokens;
}

Continuations join(const std::string& prompt, const std::vector<std::string>& answers,
                   AnswerEnd end, bool is_plain, const TextTools& text, const std::string& where) {
  require_limit(text.options);
  if (end == AnswerEnd::kEos) {
    require_eos(text);
  }
  Continuations tokens = split_jointly(prompt, answers, text.tokenizer);
  tokens.where = where;
  begin_with(tokens_before(text, is_plain), tokens.prompt);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    require_answer_token(tokens.answers[i], answers.size() == 1
                                                ? std::string("answer")
                                                : fmt::format("answer '{}'", answers[i]));
    if (end == AnswerEnd::kEos) {
      end_with_eos(tokens.answers[i], text);
    }
  }
  return checked(std::move(tokens), text);
}

TokenPair tokenize_pair(const PreferencePair& pair, const TextTools& text) {
  const std::string prompt = render(pair.prompt, text);
  Continuations joint = split_jointly(prompt,
                                      {text.chat_template.render_answer(pair.chosen[0].content),
                                       text.chat_template.render_answer(pair.rejected[0].content)},
                                      text.tokenizer);
  TokenPair tokens{std::move(joint.prompt), std::move(joint.answers[0]),
                   std::move(joint.answers[1]), pair.where};
  require_answer_token(tokens.chosen, "chosen answer");
  require_answer_token(tokens.rejected, "rejected answer");
  begin_prompt(tokens.prompt, text);
  require_prompt_token(tokens.prompt);
  end_with_eos(tokens.chosen, text);
  end_with_eos(tokens.rejected, text);
  require_fits(tokens.prompt.size(),
               {{"chosen", tokens.chosen.size()}, {"rejected", tokens.rejected.size()}},
               text.options.max_length);
  return tokens;
}

}  // namespace

TokenPairs tokenize_pairs(const std::vector<PreferencePair>& pairs, const TextTools& text) {
  require_limit(text.options);
  require_eos(text);
  TokenPairs result;
  RowCollector<TokenPair> collector(text.options.bad_rows, result.pairs, result.skipped);
  for (const PreferencePair& pair : pairs) {
    collector.add_at(pair.where, [&] { return tokenize_pair(pair, text); });
  }
  collector.require_some("pair");
  return result;
}

Tokens tokenize_prompt(const std::vector<Message>& prompt, const TextTools& text) {
  require_limit(text.options);
  Continuations tokens{text.tokenizer.encode(render(prompt, text)), {}, ""};
  begin_prompt(tokens.prompt, text);
  return checked(std::move(tokens), text).prompt;
}

Continuations tokenize_answers(const std::vector<Message>& prompt,
                               const std::vector<std::string>& answers, AnswerEnd end,
                               const TextTools& text, const std::string& where) {
  std::vector<std::string> rendered;
  for (const std::string& answer : answers) {
    rendered.push_back(end == AnswerEnd::kOpen ? render_open_answer(answer, text.chat_template)
                                               : text.chat_template.render_answer(answer));
  }
  return join(render(prompt, text), rendered, end, is_plain_form(text), text, where);
}

Continuations tokenize_plain_text(const std::string& prompt,
                                  const std::vector<std::string>& answers, const TextTools& text,
                                  const std::string& where) {
  return join(prompt, answers, AnswerEnd::kOpen, /*is_plain=*/true, text, where);
}

Continuations continue_with_text(const std::vector<Message>& prompt, const std::string& answer,
                                 const TextTools& text, const std::string& where) {
  return join(render(prompt, text), {answer}, AnswerEnd::kOpen, is_plain_form(text), text, where);
}

Continuations continue_with_tokens(const std::vector<Message>& prompt, const Tokens& answer,
                                   const TextTools& text, const std::string& where) {
  require_answer_token(answer, "answer");
  return checked({tokenize_prompt(prompt, text), {answer}, where}, text);
}

Tokens tokens_before_text(const TextTools& text) {
  return tokens_before(text, /*is_plain=*/true);
}

void require_known_ids(const Tokens& tokens, std::int64_t vocabulary) {
  for (const TokenId id : tokens) {
    if (id < 0 || id >= vocabulary) {
      throw UserError(
          fmt::format("token id {} is outside the model's vocabulary of {}; tokenizer and weights "
                      "are not of the same model",
                      id, vocabulary));
    }
  }
}

std::vector<TokenId> stop_tokens(const TextTools& text) {
  std::set<TokenId> stops(text.special.ends.begin(), text.special.ends.end());
  std::erase_if(stops, [&](TokenId id) { return id >= text.vocabulary; });
  if (text.special.eos) {
    stops.insert(*text.special.eos);
  }
  const Tokens end = text.tokenizer.encode(text.chat_template.end_of_answer());
  // A mere line break between turns does not end an answer.
  if (!end.empty() && text.tokenizer.is_special(end.front())) {
    stops.insert(end.front());
  }
  return {stops.begin(), stops.end()};
}

}  // namespace bipo
