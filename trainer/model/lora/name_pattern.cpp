#include "trainer/model/lora/name_pattern.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstddef>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool is_hexadecimal(char c) {
  return std::isxdigit(static_cast<unsigned char>(c)) != 0;
}

// Copies an expression piece by piece; each piece means the same in both syntaxes or is rewritten.
class PythonExpression {
 public:
  PythonExpression(std::string_view text, bool whole) : text_(text), whole_(whole) {}

  // Refuses what would not stay in one piece between other expressions.
  std::string translate_one_piece() {
    must_be_one_piece_ = true;
    return translate();
  }

  std::string translate() {
    while (at_ < text_.size()) {
      switch (text_[at_]) {
        case '\\':
          escape(kOutsideClasses);
          break;
        case '[':
          character_class();
          break;
        case '(':
          group();
          break;
        case '{':
          brace();
          break;
        case ')':
        case '|':
          end_piece();
          break;
        default:
          take(1);
      }
    }
    return std::move(result_);
  }

 private:
  // Letters that may follow a backslash.
  static constexpr std::string_view kOutsideClasses = "AbBdDsSwWZafnrtv";
  static constexpr std::string_view kInClasses = "bdDsSwWafnrtv";

  [[noreturn]] void refuse(std::string_view construct) const {
    throw UserError(
        fmt::format("the regular expression \"{}\" has {} at byte {}, which is not supported; "
                    "write it in another way",
                    text_, construct, at_));
  }

  char peek(std::size_t ahead) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }

  bool follows(std::string_view piece) const { return text_.substr(at_).starts_with(piece); }

  void take(std::size_t count) {
    result_ += text_.substr(at_, count);
    at_ += count;
  }

  // A parenthesis that closes, or a bar between alternatives.
  void end_piece() {
    if (must_be_one_piece_ && open_groups_ == 0) {
      refuse(fmt::format("'{}' outside parentheses", text_[at_]));
    }
    open_groups_ -= text_[at_] == ')' ? 1 : 0;
    take(1);
  }

  void escape(std::string_view letters) {
    const char c = peek(1);
    if (c == '\0') {
      refuse("a backslash at its end");
    } else if (is_digit(c)) {
      // A group's number; in a class, after 0 and with more digits it may be an octal number.
      if (letters == kInClasses || c == '0' || is_digit(peek(2))) {
        refuse("an octal number or a group's number of two digits");
      }
      take(2);
    } else if (c == 'x' && is_hexadecimal(peek(2)) && is_hexadecimal(peek(3))) {
      take(4);
    } else if (is_letter(c) && letters.find(c) == std::string_view::npos) {
      refuse(fmt::format("\\{}", c));
    } else if (c == 'Z') {
      result_ += "\\z";  // the very end
      at_ += 2;
    } else {
      take(2);
    }
  }

  void character_class() {
    take(1);
    take(peek(0) == '^' ? 1 : 0);
    take(peek(0) == ']' ? 1 : 0);  // stands for itself
    while (at_ < text_.size() && text_[at_] != ']') {
      if (text_[at_] == '\\') {
        escape(kInClasses);
      } else if (text_[at_] == '[' && (peek(1) == ':' || peek(1) == '.' || peek(1) == '=')) {
        refuse("a class by name");
      } else {
        take(1);
      }
    }
    take(1);
  }

  void group() {
    constexpr std::array kOpenings = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?P<", "(?P="};
    const auto* const opening =
        std::find_if(kOpenings.begin(), kOpenings.end(),
                     [&](std::string_view candidate) { return follows(candidate); });
    if (opening != kOpenings.end()) {
      ++open_groups_;
      take(std::string_view(*opening).size());
    } else if (follows("(?#")) {
      ++open_groups_;
      take(text_.find(')', at_) - at_);
    } else if (follows("(?")) {
      flags();
    } else if (follows("(*")) {
      refuse("(*");
    } else {
      ++open_groups_;
      take(1);
    }
  }

  // (?i) or (?i-s:
  void flags() {
    std::size_t end = 2;
    while (std::string_view("ims-").find(peek(end)) != std::string_view::npos) {
      ++end;
    }
    const bool is_global = peek(end) == ')' && at_ == 0 && whole_;
    if (end == 2 || (peek(end) != ':' && !is_global)) {
      refuse(fmt::format("{}", text_.substr(at_, std::max<std::size_t>(end + 1, 3))));
    }
    open_groups_ += is_global ? 0 : 1;
    take(end + 1);
  }

  // {2}, {2,}, {,3} and {2,3} count; any other brace stands for itself.
  void brace() {
    std::size_t end = 1;
    while (is_digit(peek(end))) {
      ++end;
    }
    const bool has_least = end > 1;
    const bool has_comma = peek(end) == ',';
    if (has_comma) {
      do {
        ++end;
      } while (is_digit(peek(end)));
    }
    if (peek(end) != '}' || (!has_least && !has_comma)) {
      result_ += "\\{";
      ++at_;
      return;
    }
    result_ += has_least ? "{" : "{0";
    ++at_;
    take(end);
  }

  std::string_view text_;
  bool whole_;
  bool must_be_one_piece_ = false;
  int open_groups_ = 0;
  std::size_t at_ = 0;
  std::string result_;
};

}  // namespace

std::string python_to_pcre2(std::string_view expression, bool whole) {
  return PythonExpression(expression, whole).translate();
}

NamePattern NamePattern::whole(const std::string& expression) {
  const std::string translated = python_to_pcre2(expression, true);
  const Regex well_formed_by_itself(translated);
  return NamePattern(fmt::format("(?:{})\\z", translated));
}

NamePattern NamePattern::ending(const std::string& expression) {
  return NamePattern(fmt::format("(.*\\.)?({})$", python_to_pcre2(expression, false)));
}

NamePattern NamePattern::before_block(const std::string& expression) {
  return NamePattern(fmt::format("(?:^|.*?\\.){}\\.(?P<idx>\\d+)\\.",
                                 PythonExpression(expression, false).translate_one_piece()));
}

bool NamePattern::matches(std::string_view name) const {
  return regex_.length_at_start(name) > 0;
}

}  // namespace bipo
