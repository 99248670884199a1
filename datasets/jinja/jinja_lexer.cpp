// Cuts Jinja source into tokens: text between tags, and names, literals and operators inside them.
#include "datasets/jinja/jinja_lexer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/jinja/jinja_values.hpp"
#include "datasets/text/unicode_text.hpp"

namespace bipo::jinja {
namespace {

// Longer ones come first, so that the first match is the longest.
constexpr std::array<std::string_view, 25> kOperators = {
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", ">",
    "<",  "=",  ".",  ":",  "|",  ",",  "(", ")", "[", "]", "{", "}"};

// A chain like a.b.c or a + b + c becomes a tree as deep as it is long, and is run recursively.
constexpr std::size_t kLongestTag = 2000;

bool begins_name(char character) {
  return (character >= 'a' && character <= 'z') || (character >= 'A' && character <= 'Z') ||
         character == '_';
}

// Jinja reads every kind of line break as "\n" and drops the one that ends the source.
std::string normalise_line_breaks(std::string_view source) {
  std::string text;
  for (std::size_t index = 0; index < source.size(); ++index) {
    if (source[index] == '\r') {
      text += '\n';
      index += source.substr(index + 1).starts_with('\n') ? 1 : 0;
    } else {
      text += source[index];
    }
  }
  if (text.ends_with('\n')) {
    text.pop_back();
  }
  return text;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalise_line_breaks(source)) {}

  std::vector<Token> run() {
    while (position_ < source_.size()) {
      const std::size_t tag = find_tag();
      take_data(tag);
      if (tag == source_.size()) {
        break;
      }
      switch (source_[tag + 1]) {
        case '#':
          take_comment();
          break;
        case '%':
          take_tag(TokenKind::kBlockBegin, TokenKind::kBlockEnd, "%}");
          break;
        default:
          take_tag(TokenKind::kOutputBegin, TokenKind::kOutputEnd, "}}");
      }
    }
    emit(TokenKind::kEnd);
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(int line, const std::string& message) const {
    throw UserError(fmt::format("line {}: {}", line, message));
  }

  std::string_view rest() const { return std::string_view(source_).substr(position_); }

  void emit(TokenKind kind, std::string text = {}) {
    tokens_.push_back({kind, std::move(text), line_});
  }

  void advance(std::size_t count) {
    const auto taken = rest().substr(0, count);
    line_ += static_cast<int>(std::count(taken.begin(), taken.end(), '\n'));
    position_ += taken.size();
  }

  std::size_t find_tag() const {
    for (std::size_t at = source_.find('{', position_); at != std::string::npos;
         at = source_.find('{', at + 1)) {
      if (at + 1 < source_.size() &&
          std::string_view("{%#").find(source_[at + 1]) != std::string::npos) {
        return at;
      }
    }
    return source_.size();
  }

  void take_data(std::size_t tag) {
    std::string_view data = rest().substr(0, tag - position_);
    if (tag < source_.size()) {
      const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
      if (sign == '-') {
        data = strip(data, Side::kRight);
      } else if (sign != '+' && source_[tag + 1] != '{') {
        data = without_indentation(data);
      }
    }
    if (!data.empty()) {
      emit(TokenKind::kData, std::string(data));
    }
    advance(tag - position_);
  }

  // lstrip_blocks: drops blanks between the beginning of the line and a block tag.
  std::string_view without_indentation(std::string_view data) const {
    const std::size_t line_break = data.rfind('\n');
    if (line_break == std::string_view::npos && !at_line_start_) {
      return data;
    }
    const std::size_t begin = line_break == std::string_view::npos ? 0 : line_break + 1;
    return strip(data.substr(begin), Side::kBoth).empty() ? data.substr(0, begin) : data;
  }

  void take_comment() {
    const std::size_t end = source_.find("#}", position_ + 2);
    if (end == std::string::npos) {
      fail(line_, "the comment '{#' is not closed");
    }
    const char sign = end > position_ + 2 ? source_[end - 1] : '\0';
    advance(end + 2 - position_);
    take_space_after_tag(sign, true);
  }

  void take_tag(TokenKind begin, TokenKind end, std::string_view closing) {
    const int opening_line = line_;
    emit(begin);
    advance(2);
    if (rest().starts_with('-') || rest().starts_with('+')) {
      advance(1);
    }
    const bool is_block = end == TokenKind::kBlockEnd;
    const std::size_t first_token = tokens_.size();
    int open_brackets = 0;
    while (true) {
      advance(rest().size() - strip_ascii_left(rest()).size());
      if (rest().empty()) {
        fail(opening_line, "the tag is not closed");
      }
      const bool signed_end = (rest()[0] == '-' || (rest()[0] == '+' && is_block)) &&
                              rest().substr(1).starts_with(closing);
      if (open_brackets == 0 && (signed_end || rest().starts_with(closing))) {
        const char sign = signed_end ? rest()[0] : '\0';
        emit(end);
        advance(closing.size() + (signed_end ? 1 : 0));
        take_space_after_tag(sign, is_block);
        return;
      }
      take_token(open_brackets);
      if (tokens_.size() - first_token > kLongestTag) {
        fail(opening_line, fmt::format("the tag has more than {} tokens", kLongestTag));
      }
    }
  }

  static std::string_view strip_ascii_left(std::string_view text) {
    text.remove_prefix(std::min(text.find_first_not_of(" \t\n\v\f"), text.size()));
    return text;
  }

  void take_space_after_tag(char sign, bool trims_line_break) {
    const std::size_t before = position_;
    if (sign == '-') {
      advance(rest().size() - strip(rest(), Side::kLeft).size());
    } else if (sign != '+' && trims_line_break && rest().starts_with('\n')) {
      advance(1);
    }
    at_line_start_ = position_ > before && source_[position_ - 1] == '\n';
  }

  void take_token(int& open_brackets) {
    const char first = rest()[0];
    if (begins_name(first)) {
      std::size_t length = 1;
      while (length < rest().size() &&
             (begins_name(rest()[length]) || is_ascii_digit(rest()[length]))) {
        ++length;
      }
      emit(TokenKind::kName, std::string(rest().substr(0, length)));
      advance(length);
    } else if (is_ascii_digit(first)) {
      take_number();
    } else if (first == '\'' || first == '"') {
      take_string(first);
    } else {
      take_operator(open_brackets);
    }
  }

  void take_number() {
    const auto digits_from = [this](std::size_t begin) {
      std::size_t end = begin;
      while (end < rest().size() && is_ascii_digit(rest()[end])) {
        ++end;
      }
      return end;
    };
    std::size_t length = digits_from(0);
    TokenKind kind = TokenKind::kInteger;
    const bool follows_dot =
        tokens_.back().kind == TokenKind::kOperator && tokens_.back().text == ".";
    if (!follows_dot && length < rest().size() && rest()[length] == '.' &&
        digits_from(length + 1) > length + 1) {
      length = digits_from(length + 1);
      kind = TokenKind::kFloat;
    }
    if (length < rest().size() && begins_name(rest()[length])) {
      fail(line_, fmt::format("the number that begins with '{}' is not supported",
                              rest().substr(0, length + 1)));
    }
    emit(kind, std::string(rest().substr(0, length)));
    advance(length);
  }

  void take_string(char quote) {
    std::size_t end = 1;
    while (end < rest().size() && rest()[end] != quote) {
      end += rest()[end] == '\\' ? 2 : 1;
    }
    if (end >= rest().size()) {
      fail(line_, "the string is not closed");
    }
    emit(TokenKind::kString, unescape(rest().substr(1, end - 1)));
    advance(end + 1);
  }

  // Escapes of Python's unicode_escape codec; an unknown one stays as it is.
  std::string unescape(std::string_view text) const {
    constexpr std::string_view kLetters = "abfnrtv\\'\"";
    constexpr std::string_view kMeanings = "\a\b\f\n\r\t\v\\'\"";
    std::string result;
    for (std::size_t index = 0; index < text.size(); ++index) {
      if (text[index] != '\\') {
        result += text[index];
        continue;
      }
      const char letter = text[++index];
      const std::size_t known = kLetters.find(letter);
      const int digits = letter == 'x' ? 2 : letter == 'u' ? 4 : letter == 'U' ? 8 : 0;
      if (known != std::string_view::npos) {
        result += kMeanings[known];
      } else if (digits > 0) {
        append_escaped(result, text.substr(index + 1, static_cast<std::size_t>(digits)), digits);
        index += static_cast<std::size_t>(digits);
      } else if (is_ascii_digit(letter) || letter == 'N') {
        fail(line_, fmt::format("the escape '\\{}' is not supported", letter));
      } else if (letter != '\n') {
        result += {'\\', letter};
      }
    }
    return result;
  }

  void append_escaped(std::string& result, std::string_view hex, int digits) const {
    std::uint32_t code = 0;
    for (const char character : hex) {
      const auto digit =
          std::string_view("0123456789abcdef")
              .find(static_cast<char>(is_ascii_digit(character) ? character : character | 0x20));
      if (digit == std::string_view::npos) {
        hex = {};
        break;
      }
      code = code * 16 + static_cast<std::uint32_t>(digit);
    }
    if (hex.size() != static_cast<std::size_t>(digits) || code > 0x10FFFF ||
        (code >= 0xD800 && code < 0xE000)) {
      fail(line_, "a string holds an escape that is no Unicode character");
    }
    append_code_point(code, result);
  }

  void take_operator(int& open_brackets) {
    const auto found_at =
        std::find_if(kOperators.begin(), kOperators.end(),
                     [this](std::string_view candidate) { return rest().starts_with(candidate); });
    if (found_at == kOperators.end()) {
      fail(line_, fmt::format("unexpected character '{}'", code_points(rest()).front()));
    }
    const std::string_view found = *found_at;
    open_brackets += std::string_view("([{").find(found) != std::string_view::npos ? 1 : 0;
    open_brackets -= std::string_view(")]}").find(found) != std::string_view::npos ? 1 : 0;
    if (open_brackets < 0) {
      fail(line_, fmt::format("unexpected '{}'", found));
    }
    emit(TokenKind::kOperator, std::string(found));
    advance(found.size());
  }

  std::string source_;
  std::size_t position_ = 0;
  int line_ = 1;
  bool at_line_start_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  if (!is_utf8(source)) {
    throw UserError("the template is not valid UTF-8");
  }
  return Lexer(source).run();
}

}  // namespace bipo::jinja
