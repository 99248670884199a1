// Writes multiple-choice items as the prompts that their sources use, and tokenises them.
#include "datasets/tokens/choice_tokens.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/row_collector.hpp"
#include "datasets/tokens/tokenization.hpp"

namespace bipo {
namespace {

std::string ab_question(const ChoiceItem& item) {
  return fmt::format("{}\n\nChoices:\n (A) {}\n (B) {}", item.question, item.choices[0].text,
                     item.choices[1].text);
}

std::string mmlu_question(const ChoiceItem& item) {
  std::string text = item.question;
  for (std::size_t i = 0; i < item.choices.size(); ++i) {
    text += fmt::format("\n{}. {}", static_cast<char>('A' + i), item.choices[i].text);
  }
  return text + "\nAnswer:";
}

char right_letter(const ChoiceItem& item) {
  const auto right = std::find_if(item.choices.begin(), item.choices.end(),
                                  [](const Choice& choice) { return choice.right; });
  return static_cast<char>('A' + (right - item.choices.begin()));
}

std::string mmlu_prompt(const ChoiceItem& item, const std::vector<ChoiceItem>& shots,
                        std::size_t count) {
  std::string subject = item.subject;
  std::replace(subject.begin(), subject.end(), '_', ' ');
  std::string text = fmt::format(
      "The following are multiple choice questions (with answers) about {}.\n\n", subject);
  for (std::size_t i = 0; i < count; ++i) {
    text += fmt::format("{} {}\n\n", mmlu_question(shots[i]), right_letter(shots[i]));
  }
  return text + mmlu_question(item);
}

Continuations tokenize_ab(const ChoiceItem& item, const TextTools& text) {
  return tokenize_answers({{"user", ab_question(item)}}, {"(A", "(B"}, AnswerEnd::kOpen, text,
                          item.where);
}

Continuations tokenize_mc(const ChoiceItem& item, const TextTools& text) {
  std::vector<std::string> answers;
  for (const Choice& choice : item.choices) {
    answers.push_back(choice.text);
  }
  return tokenize_answers({{"user", item.question}}, answers, AnswerEnd::kEos, text, item.where);
}

// Leaves out worked examples until the item fits.  Tokenises without a limit, so that a prompt that
// is too long differs from other defects.
Continuations tokenize_mmlu(const ChoiceItem& item, const std::vector<ChoiceItem>& shots,
                            const TextTools& text, std::size_t& shots_used) {
  TokenizeOptions unlimited = text.options;
  unlimited.max_length = std::numeric_limits<std::int64_t>::max();
  const TextTools any_length{text.chat_template, text.tokenizer, text.special, unlimited,
                             text.vocabulary};
  const std::vector<std::string> letters = {" A", " B", " C", " D"};
  for (shots_used = shots.size(); shots_used > 0; --shots_used) {
    Continuations tokens =
        tokenize_plain_text(mmlu_prompt(item, shots, shots_used), letters, any_length, item.where);
    std::size_t longest = 0;
    for (const auto& answer : tokens.answers) {
      longest = std::max(longest, answer.size());
    }
    if (static_cast<std::int64_t>(tokens.prompt.size() + longest) <= text.options.max_length) {
      return tokens;
    }
  }
  return tokenize_plain_text(mmlu_prompt(item, shots, 0), letters, text, item.where);
}

Continuations tokenize_item(const ChoiceSet& set, const ChoiceItem& item, const TextTools& text,
                            std::int64_t& fewer_shots) {
  switch (set.kind) {
    case ChoiceKind::kAb:
      return tokenize_ab(item, text);
    case ChoiceKind::kMc:
      return tokenize_mc(item, text);
    case ChoiceKind::kMmlu: {
      const std::vector<ChoiceItem>& shots = set.shots.at(item.subject);
      std::size_t shots_used = 0;
      Continuations tokens = tokenize_mmlu(item, shots, text, shots_used);
      fewer_shots += shots_used < shots.size() ? 1 : 0;
      return tokens;
    }
  }
  throw BugError(fmt::format("kind of choice {} is not known", static_cast<int>(set.kind)));
}

}  // namespace

TokenizedChoices tokenize_choices(const ChoiceSet& set, const TextTools& text) {
  TokenizedChoices result;
  RowCollector<TokenizedChoice> collector(text.options.bad_rows, result.items, result.skipped);
  for (std::size_t i = 0; i < set.items.size(); ++i) {
    collector.add_at(set.items[i].where, [&] {
      return TokenizedChoice{i, tokenize_item(set, set.items[i], text, result.fewer_shots)};
    });
  }
  collector.require_some("item");
  return result;
}

std::vector<TokenPair> letter_pairs(const ChoiceSet& set, const TokenizedChoices& tokens) {
  const auto last_alone = [](const std::vector<TokenId>& answer) {
    ScoredTokens scored(answer.size(), false);
    scored.back() = true;
    return scored;
  };
  std::vector<TokenPair> pairs;
  for (const TokenizedChoice& item : tokens.items) {
    const std::vector<std::vector<TokenId>>& answers = item.tokens.answers;
    const std::size_t matching = set.items[item.item].choices.front().right ? 0 : 1;
    const std::vector<TokenId>& chosen = answers[matching];
    const std::vector<TokenId>& rejected = answers[1 - matching];
    pairs.push_back({item.tokens.prompt, chosen, rejected, item.tokens.where, last_alone(chosen),
                     last_alone(rejected)});
  }
  return pairs;
}

}  // namespace bipo
