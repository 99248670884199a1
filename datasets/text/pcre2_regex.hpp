// A compiled PCRE2 expression over UTF-8 text.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct pcre2_real_code_8;

namespace bipo {

// Bytes [begin, end) of a text.
struct Span {
  std::size_t begin = 0;
  std::size_t end = 0;
  bool operator==(const Span&) const = default;
};

// Const members may be called from several threads at once; they throw UserError if a match takes
// more steps than PCRE2 allows.
class Regex {
 public:
  // Throws UserError with the byte offset when PCRE2 does not accept `pattern`.
  explicit Regex(std::string_view pattern);
  static Regex literal(std::string_view text);  // matches exactly `text`

  // Returns every match in well-formed UTF-8, left to right, not overlapping.  An empty match
  // counts unless it is where the previous match ended, as in Oniguruma's iteration.
  std::vector<Span> find_all(std::string_view text) const;

  // Returns the bytes of the match at the beginning of `text`; 0 without one.
  std::size_t length_at_start(std::string_view text) const;

 private:
  struct CodeDeleter {
    void operator()(pcre2_real_code_8* code) const;
  };
  Regex(std::string_view pattern, unsigned options);

  std::unique_ptr<pcre2_real_code_8, CodeDeleter> code_;
};

// Translates a regular expression of tokenizer.json, written for Oniguruma, to PCRE2's syntax:
// PCRE2 (UTF, UCP, multi-line) matches the result as Oniguruma's Ruby syntax matches `pattern`.
// Throws UserError naming the construct where the two may disagree: nested and intersected
// character classes, \w, \b, \h, named properties that are no general category, ...
// Case-insensitive groups agree for single-character case folds (PCRE2 does not equate "ss" and
// U+00DF).
std::string oniguruma_to_pcre2(std::string_view pattern);

}  // namespace bipo
