// Prompts and answers of any kind as token ids, by the rules of the preference pairs.
#include "datasets/tokens/continuations.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/template/chat_template.hpp"
#include "datasets/tokenizer/tokenizer.hpp"
#include "datasets/tokens/joint_tokens.hpp"
#include "datasets/tokens/token_pairs.hpp"

namespace bipo {
namespace {

using Tokens = std::vector<TokenId>;

std::string render(const std::vector<Message>& prompt, const TextTools& text) {
  return text.chat_template.render_prompt(with_system_prompt(
      prompt, text.options.system_prompt, text.chat_template.takes_system_turn()));
}

// What the template puts before the answer, and the answer.
std::string render_open_answer(const std::string& answer, const ChatTemplate& chat_template) {
  const std::string rendered = chat_template.render_answer(answer);
  const std::size_t at = rendered.rfind(answer);
  if (at == std::string::npos) {
    throw UserError(
        fmt::format("the chat template renders the answer '{}' as '{}', so that its end cannot be "
                    "told; choose another one with --chat-template",
                    answer, rendered));
  }
  return rendered.substr(0, at + answer.size());
}

void require_limit(const TokenizeOptions& options) {
  if (options.max_length < 1) {
    throw BugError(fmt::format("text tokenised with a limit of {} tokens", options.max_length));
  }
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
                   AnswerEnd end, const TextTools& text, const std::string& where) {
  require_limit(text.options);
  if (end == AnswerEnd::kEos) {
    require_eos(text.special, text.options);
  }
  JointTokens joint = split_jointly(prompt, answers, text.tokenizer);
  begin_with_bos(joint.prompt, text.special, text.options);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    require_answer_token(joint.answers[i], answers.size() == 1
                                               ? std::string("answer")
                                               : fmt::format("answer '{}'", answers[i]));
    if (end == AnswerEnd::kEos) {
      end_with_eos(joint.answers[i], text.special, text.options);
    }
  }
  return checked({std::move(joint.prompt), std::move(joint.answers), where}, text);
}

}  // namespace

Tokens tokenize_prompt(const std::vector<Message>& prompt, const TextTools& text) {
  require_limit(text.options);
  Continuations tokens{text.tokenizer.encode(render(prompt, text)), {}, ""};
  begin_with_bos(tokens.prompt, text.special, text.options);
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
  return join(render(prompt, text), rendered, end, text, where);
}

Continuations tokenize_plain_text(const std::string& prompt,
                                  const std::vector<std::string>& answers, const TextTools& text,
                                  const std::string& where) {
  return join(prompt, answers, AnswerEnd::kOpen, text, where);
}

Continuations continue_with_text(const std::vector<Message>& prompt, const std::string& answer,
                                 const TextTools& text, const std::string& where) {
  return join(render(prompt, text), {answer}, AnswerEnd::kOpen, text, where);
}

Continuations continue_with_tokens(const std::vector<Message>& prompt, const Tokens& answer,
                                   const TextTools& text, const std::string& where) {
  require_answer_token(answer, "answer");
  return checked({tokenize_prompt(prompt, text), {answer}, where}, text);
}

void require_known_ids(const Tokens& tokens, std::int64_t vocabulary) {
  for (const TokenId id : tokens) {
    if (id < 0 || id >= vocabulary) {
      throw UserError(
          fmt::format("token id {} is outside the model's vocabulary of {}; tokenizer and weights "
                      "do not belong together",
                      id, vocabulary));
    }
  }
}

}  // namespace bipo
