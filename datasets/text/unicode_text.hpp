// UTF-8 checks, steps between characters, white space, letter case and normalisation forms.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace bipo {

// Classifies the first bytes of a text by the well-formed sequences of the Unicode standard
// (table 3-7).
struct Utf8Sequence {
  enum class Kind {
    kCharacter,
    kMalformed,   // the longest beginning of a character that does not continue, or a stray byte
    kUnfinished,  // the beginning of a character that ends with the text
  };
  Kind kind = Kind::kCharacter;
  std::size_t length = 0;  // bytes, at least 1
};
Utf8Sequence first_sequence(std::string_view bytes);  // `bytes` must not be empty

bool is_ascii(std::string_view text);
bool is_utf8(std::string_view text);

// Returns the offset of the first byte that is not well-formed UTF-8; text.size() if there is none.
std::size_t well_formed_length(std::string_view text);

// Throws UserError with the byte offset when `text` is not well-formed UTF-8.
void require_utf8(std::string_view text);

// Appends a character, from 0 to 0x10FFFF, as UTF-8.
void append_code_point(std::uint32_t code_point, std::string& text);

// The first and the last character of well-formed, non-empty UTF-8.
std::string_view first_character(std::string_view text);
std::string_view last_character(std::string_view text);

// Count the bytes of the characters with the property White_Space at an end of well-formed UTF-8.
std::size_t leading_white_space(std::string_view text);
std::size_t trailing_white_space(std::string_view text);

enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };

// Returns the normalisation form of well-formed UTF-8.
std::string to_unicode_form(std::string_view text, UnicodeForm form);

// Returns each character's full lower-case mapping, regardless of its neighbours and the language.
std::string to_lower_case(std::string_view text);

inline bool is_ascii_digit(char character) {
  return character >= '0' && character <= '9';
}

}  // namespace bipo
