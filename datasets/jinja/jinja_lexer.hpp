// Cuts Jinja source into tokens and applies its whitespace control.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace bipo::jinja {

enum class TokenKind {
  kData,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kBlockBegin,
  kBlockEnd,
  kOutputBegin,
  kOutputEnd,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string text;  // string literals: decoded; tags: empty
  int line = 1;
};

// Ends with a kEnd token.  Behaves as Jinja's lexer with trim_blocks and lstrip_blocks on: drops
// the line break after a block tag and the blanks before one at the beginning of a line; "-" strips
// more, "+" keeps all.  Throws UserError "line N: ..." for text that is no token and for tags that
// are not closed.
std::vector<Token> tokenize(std::string_view source);

}  // namespace bipo::jinja
