// UTF-8 checks, steps between characters, and normalisation form C.
#pragma once

#include <string>
#include <string_view>

namespace bipo {

// Throws UserError with the byte offset when `text` is not well-formed UTF-8.
void require_utf8(std::string_view text);

// The first and the last character of well-formed, non-empty UTF-8.
std::string_view first_character(std::string_view text);
std::string_view last_character(std::string_view text);

// Unicode normalisation form C of well-formed UTF-8.
std::string to_nfc(std::string_view text);

}  // namespace bipo
