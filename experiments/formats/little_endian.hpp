// Numbers as the binary file formats store them.
#pragma once

#include <bit>
#include <cstring>
#include <string>

namespace bipo {

static_assert(std::endian::native == std::endian::little);

template <typename Number>
void append_number(std::string& bytes, Number value) {
  char encoded[sizeof(value)];
  std::memcpy(encoded, &value, sizeof(value));
  bytes.append(encoded, sizeof(value));
}

}  // namespace bipo
