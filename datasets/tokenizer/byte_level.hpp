// The printable alphabet in which byte-level BPE writes arbitrary bytes.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace bipo {

// Writes every byte as one character: printable Latin-1 bytes as themselves, the other 68 as
// U+0100, U+0101, ... in byte order (the alphabet of GPT-2's encoder).
std::string to_byte_level(std::string_view bytes);

// Returns the bytes that `text` (well-formed UTF-8) encodes; nullopt if a character is not in the
// alphabet.
std::optional<std::string> from_byte_level(std::string_view text);

}  // namespace bipo
