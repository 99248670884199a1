#include "datasets/tokens/stop_tokens.hpp"

#include <set>

#include "datasets/template/chat_template.hpp"
#include "datasets/tokenizer/tokenizer.hpp"

namespace bipo {

std::vector<TokenId> stop_tokens(const TextTools& text) {
  std::set<TokenId> stops(text.special.ends.begin(), text.special.ends.end());
  if (text.special.eos) {
    stops.insert(*text.special.eos);
  }
  const std::vector<TokenId> end = text.tokenizer.encode(text.chat_template.end_of_answer());
  // A mere line break between turns ends no answer.
  if (!end.empty() && text.tokenizer.is_special(end.front())) {
    stops.insert(end.front());
  }
  return {stops.begin(), stops.end()};
}

}  // namespace bipo
