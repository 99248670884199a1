// UTF-8 checks, steps between characters, white space, letter case and normalisation forms.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace bipo {

// What the first bytes of a text are, by the well-formed sequences of the Unicode standard
// (table 3-7).
struct Utf8Sequence {
  enum class Kind {
    kCharacter,
    kMalformed,   // the longest beginning of a character that is not carried on, or one stray byte
    kUnfinished,  // the beginning of a character that ends with the text
  };
  Kind kind = Kind::kCharacter;
  std::size_t length = 0;  // bytes, at least 1
};
Utf8Sequence first_sequence(std::string_view bytes);  // of bytes that are not empty

bool is_utf8(std::string_view text);

// Throws UserError with the byte offset when `text` is not well-formed UTF-8.
void require_utf8(std::string_view text);

// The first and the last character of well-formed, non-empty UTF-8.
std::string_view first_character(std::string_view text);
std::string_view last_character(std::string_view text);

// Bytes of the characters with the property White_Space at the ends of well-formed UTF-8.
std::size_t leading_white_space(std::string_view text);
std::size_t trailing_white_space(std::string_view text);

enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };

// That Unicode normalisation form of well-formed UTF-8.
std::string to_unicode_form(std::string_view text, UnicodeForm form);

// Each character's full lower-case mapping, without regard to its neighbours or a language.
std::string to_lower_case(std::string_view text);

inline bool is_ascii_digit(char character) {
  return character >= '0' && character <= '9';
}

}  // namespace bipo
