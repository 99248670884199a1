// UTF-8 checks, steps between characters, and normalisation form C, on utf8proc.
#include "datasets/unicode_text.hpp"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "collectives/errors.hpp"

namespace bipo {
namespace {

const utf8proc_uint8_t* bytes_of(std::string_view text) {
  return reinterpret_cast<const utf8proc_uint8_t*>(text.data());
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char byte) { return static_cast<unsigned char>(byte) < 0x80; });
}

bool is_continuation_byte(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
}

struct FreeDeleter {
  void operator()(void* memory) const { std::free(memory); }
};

}  // namespace

void require_utf8(std::string_view text) {
  std::size_t offset = 0;
  while (offset < text.size()) {
    const std::string_view rest = text.substr(offset);
    utf8proc_int32_t code_point = 0;
    const utf8proc_ssize_t length =
        utf8proc_iterate(bytes_of(rest), static_cast<utf8proc_ssize_t>(rest.size()), &code_point);
    if (length <= 0) {
      throw UserError(
          fmt::format("the text is not valid UTF-8 at byte {}; save the file as UTF-8", offset));
    }
    offset += static_cast<std::size_t>(length);
  }
}

std::string_view first_character(std::string_view text) {
  std::size_t length = 1;
  while (length < text.size() && is_continuation_byte(text[length])) {
    ++length;
  }
  return text.substr(0, length);
}

std::string_view last_character(std::string_view text) {
  std::size_t begin = text.size() - 1;
  while (begin > 0 && is_continuation_byte(text[begin])) {
    --begin;
  }
  return text.substr(begin);
}

std::string to_nfc(std::string_view text) {
  if (is_ascii(text)) {
    return std::string(text);
  }
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t length =
      utf8proc_map(bytes_of(text), static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, FreeDeleter> owner(mapped);
  if (length < 0) {
    throw EnvironmentError(
        fmt::format("utf8proc_map failed on {} bytes: {}", text.size(), utf8proc_errmsg(length)));
  }
  return std::string(reinterpret_cast<const char*>(mapped), static_cast<std::size_t>(length));
}

}  // namespace bipo
