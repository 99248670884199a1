#include "datasets/tokenizer/byte_level.hpp"

#include <array>
#include <cstdint>
#include <unordered_map>

#include "datasets/text/unicode_text.hpp"

namespace bipo {
namespace {

constexpr int kBytes = 256;

bool is_printable(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

std::array<std::string, kBytes> make_alphabet() {
  std::array<std::string, kBytes> alphabet;
  int next_free = kBytes;
  for (int byte = 0; byte < kBytes; ++byte) {
    const int code_point = is_printable(byte) ? byte : next_free++;
    append_code_point(static_cast<std::uint32_t>(code_point),
                      alphabet[static_cast<std::size_t>(byte)]);
  }
  return alphabet;
}

const std::array<std::string, kBytes>& alphabet() {
  static const std::array<std::string, kBytes> characters = make_alphabet();
  return characters;
}

std::unordered_map<std::string_view, char> make_bytes_of_characters() {
  std::unordered_map<std::string_view, char> bytes;
  for (std::size_t byte = 0; byte < kBytes; ++byte) {
    bytes.emplace(alphabet()[byte], static_cast<char>(byte));
  }
  return bytes;
}

}  // namespace

std::string to_byte_level(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const char byte : bytes) {
    text += alphabet()[static_cast<unsigned char>(byte)];
  }
  return text;
}

std::optional<std::string> from_byte_level(std::string_view text) {
  static const std::unordered_map<std::string_view, char> byte_of = make_bytes_of_characters();
  std::string bytes;
  bytes.reserve(text.size());
  while (!text.empty()) {
    const std::string_view character = first_character(text);
    const auto found = byte_of.find(character);
    if (found == byte_of.end()) {
      return std::nullopt;
    }
    bytes += found->second;
    text.remove_prefix(character.size());
  }
  return bytes;
}

}  // namespace bipo
