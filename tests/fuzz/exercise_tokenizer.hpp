// Puts a tokenizer from a fuzzer's input to use, and checks what every one must satisfy.
#pragma once

#include <array>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "datasets/text/unicode_text.hpp"
#include "datasets/tokenizer/tokenizer.hpp"

namespace bipo::fuzz {

// Contractions, digits, spaces of all kinds, marks, a special token, two to four bytes a character.
inline constexpr std::array<std::string_view, 3> kTexts = {
    "", "ab <s>aab", "  Don't w\u00f6rry\t12345\r\n\n \u732b\u2581\U0001F999e\u0301\u00a0</s>, ok"};

inline void check_ids(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  for (const TokenId id : ids) {
    if (id < 0 || id >= tokenizer.vocabulary_size()) {
      throw std::logic_error("an id is outside the vocabulary");
    }
  }
}

// Throws UserError where the tokenizer refuses the text.
inline void exercise(const Tokenizer& tokenizer) {
  for (const std::string_view text : kTexts) {
    const std::vector<TokenId> ids = tokenizer.encode(text);
    check_ids(tokenizer, ids);
    for (const auto special : {SpecialTokenText::kKept, SpecialTokenText::kSkipped}) {
      if (!is_utf8(tokenizer.decode(ids, special))) {
        throw std::logic_error("the decoded text is not UTF-8");
      }
    }
  }
}

}  // namespace bipo::fuzz
