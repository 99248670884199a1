// Translates the regular expressions of tokenizer.json, written for Oniguruma, to PCRE2's syntax.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <string>
#include <string_view>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/pcre2_regex.hpp"
#include "datasets/text/unicode_text.hpp"

namespace bipo {
namespace {

constexpr std::array<std::string_view, 37> kGeneralCategories = {
    "C",  "Cc", "Cf", "Cn", "Co", "Cs", "L",  "Ll", "Lm", "Lo", "Lt", "Lu", "M",
    "Mc", "Me", "Mn", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Pe", "Pf", "Pi",
    "Po", "Ps", "S",  "Sc", "Sk", "Sm", "So", "Z",  "Zl", "Zp", "Zs"};

constexpr std::array<std::string_view, 7> kGroupOpenings = {"(?:",  "(?i:", "(?=", "(?!",
                                                            "(?<=", "(?<!", "(?>"};

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  std::string translate() {
    while (position_ < pattern_.size()) {
      switch (pattern_[position_]) {
        case '\\':
          escape();
          break;
        case '[':
          character_class();
          break;
        case '(':
          group();
          break;
        case '{':
          interval();
          break;
        default:
          copy(1);
      }
    }
    return std::move(translated_);
  }

 private:
  [[noreturn]] void refuse(std::string_view construct) const {
    throw UserError(
        fmt::format("the regular expression \"{}\" uses {} at byte {}, which is not implemented",
                    pattern_, construct, position_));
  }

  std::string_view rest() const { return pattern_.substr(position_); }

  void copy(std::size_t count) {
    translated_ += rest().substr(0, count);
    position_ += count;
  }

  void replace(std::size_t count, std::string_view by) {
    translated_ += by;
    position_ += count;
  }

  void escape() {
    if (rest().size() < 2) {
      refuse("a backslash with nothing after it");
    }
    const char escaped = rest()[1];
    switch (escaped) {
      // PCRE2's own \s also matches U+180E, which has not been white space since Unicode 6.3.
      case 's':
        return replace(2, "\\p{White_Space}");
      case 'S':
        return replace(2, "\\P{White_Space}");
      case 'p':
      case 'P':
        return property();
      case 'd':
      case 'D':
      case 'r':
      case 'n':
      case 't':
      case 'f':
        return copy(2);
      default:
        if (!std::ispunct(static_cast<unsigned char>(escaped))) {
          refuse(fmt::format("the escape \\{}", escaped));
        }
        copy(2);
    }
  }

  void property() {
    const std::size_t close = rest().find('}');
    if (rest().size() < 3 || rest()[2] != '{' || close == std::string_view::npos) {
      refuse("a property without braces");
    }
    std::string_view name = rest().substr(3, close - 3);
    if (name.starts_with('^')) {
      name.remove_prefix(1);
    }
    if (std::find(kGeneralCategories.begin(), kGeneralCategories.end(), name) ==
        kGeneralCategories.end()) {
      refuse(fmt::format("the property \"{}\"", name));
    }
    copy(close + 1);
  }

  void character_class() {
    copy(rest().starts_with("[^") ? 2 : 1);
    if (rest().starts_with(']')) {
      refuse("a character class that begins with ]");
    }
    while (!rest().starts_with(']')) {
      if (rest().empty()) {
        refuse("a character class without an end");
      }
      if (rest().starts_with('[')) {
        refuse("a character class inside another");
      }
      if (rest().starts_with("&&")) {
        refuse("an intersection of character classes");
      }
      if (rest().starts_with('\\')) {
        escape();
      } else {
        copy(1);
      }
    }
    copy(1);
  }

  void group() {
    const bool plain = !rest().starts_with("(?") && !rest().starts_with("(*");
    const bool known = std::any_of(kGroupOpenings.begin(), kGroupOpenings.end(),
                                   [&](auto opening) { return rest().starts_with(opening); });
    if (!plain && !known) {
      refuse("a group of an uncommon kind");
    }
    // Copies the characters after "(" too, so that none is read as a quantifier or a class.
    copy(plain ? 1 : rest().find_first_of(":=!>") + 1);
  }

  std::size_t end_of_digits(std::size_t begin) const {
    while (begin < rest().size() && is_ascii_digit(rest()[begin])) {
      ++begin;
    }
    return begin;
  }

  // {n}, {n,} and {n,m} mean the same in both; a + or ? after them does not.
  void interval() {
    std::size_t length = end_of_digits(1);
    const bool has_minimum = length > 1;
    if (length < rest().size() && rest()[length] == ',') {
      length = end_of_digits(length + 1);
    }
    if (!has_minimum || length >= rest().size() || rest()[length] != '}') {
      refuse("a { that opens no {n}, {n,} or {n,m}");
    }
    copy(length + 1);
    if (rest().starts_with('+') || rest().starts_with('?')) {
      refuse("a + or ? right after an interval");
    }
  }

  std::string_view pattern_;
  std::size_t position_ = 0;
  std::string translated_;
};

}  // namespace

std::string oniguruma_to_pcre2(std::string_view pattern) {
  return Translator(pattern).translate();
}

}  // namespace bipo
