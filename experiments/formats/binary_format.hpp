// Numbers and names as binary file formats store them.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

namespace bipo {

static_assert(std::endian::native == std::endian::little);

template <typename Number>
void append_number(std::string& bytes, Number value) {
  char encoded[sizeof(value)];
  std::memcpy(encoded, &value, sizeof(value));
  bytes.append(encoded, sizeof(value));
}

// The caller has checked that the number is within `bytes`.
template <typename Number>
Number number_at(std::span<const std::byte> bytes, std::size_t position) {
  Number value{};
  std::memcpy(&value, bytes.data() + position, sizeof(value));
  return value;
}

inline std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Returns a name from an untrusted file as messages show it: with '?' in place of everything but
// printable ASCII, and a long text cut off.
inline std::string printable(std::string_view text) {
  constexpr std::size_t kMostShown = 100;
  std::string shown(text.substr(0, kMostShown));
  std::replace_if(
      shown.begin(), shown.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return text.size() > kMostShown ? shown + "..." : shown;
}

}  // namespace bipo
