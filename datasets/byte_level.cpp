// The printable alphabet in which byte-level BPE writes arbitrary bytes.
#include "datasets/byte_level.hpp"

#include <array>

namespace bipo {
namespace {

constexpr int kBytes = 256;
constexpr int kFirstStandIn = 0x100;

bool stands_for_itself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

std::string utf8_of_two_bytes_or_less(int code_point) {
  if (code_point < 0x80) {
    return std::string(1, static_cast<char>(code_point));
  }
  return {static_cast<char>(0xC0 | (code_point >> 6)),
          static_cast<char>(0x80 | (code_point & 0x3F))};
}

std::array<std::string, kBytes> make_alphabet() {
  std::array<std::string, kBytes> alphabet;
  int stand_in = kFirstStandIn;
  for (int byte = 0; byte < kBytes; ++byte) {
    const int code_point = stands_for_itself(byte) ? byte : stand_in++;
    alphabet[static_cast<std::size_t>(byte)] = utf8_of_two_bytes_or_less(code_point);
  }
  return alphabet;
}

}  // namespace

std::string to_byte_level(std::string_view bytes) {
  static const std::array<std::string, kBytes> alphabet = make_alphabet();
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const char byte : bytes) {
    text += alphabet[static_cast<unsigned char>(byte)];
  }
  return text;
}

}  // namespace bipo
