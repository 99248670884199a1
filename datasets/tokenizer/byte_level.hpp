// The printable alphabet in which byte-level BPE writes arbitrary bytes.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace bipo {

// Writes every byte as one character: printable Latin-1 bytes stand for themselves, the other 68
// become U+0100, U+0101, ... in byte order (the alphabet of GPT-2's encoder).
std::string to_byte_level(std::string_view bytes);

// The bytes that `text` (well-formed UTF-8) stands for; nullopt where a character is not of the
// alphabet.
std::optional<std::string> from_byte_level(std::string_view text);

}  // namespace bipo
