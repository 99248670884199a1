// UTF-8 checks, steps between characters, white space, letter case and normalisation forms, on
// utf8proc.
#include "datasets/text/unicode_text.hpp"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/pcre2_regex.hpp"

namespace bipo {
namespace {

constexpr utf8proc_int32_t kCapitalIWithDot = 0x130;

const utf8proc_uint8_t* bytes_of(std::string_view text) {
  return reinterpret_cast<const utf8proc_uint8_t*>(text.data());
}

bool is_continuation_byte(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
}

// Returns a character's number of bytes from its first one; 0 for a byte that begins none.
std::size_t length_from_lead(unsigned char lead) {
  if (lead < 0x80) {
    return 1;
  }
  if (lead >= 0xC2 && lead <= 0xDF) {
    return 2;
  }
  if (lead >= 0xE0 && lead <= 0xEF) {
    return 3;
  }
  return lead >= 0xF0 && lead <= 0xF4 ? 4 : 0;
}

// Excludes overlong forms, surrogates and numbers above U+10FFFF.
bool may_be_second(unsigned char lead, unsigned char second) {
  const unsigned lowest = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned highest = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  return second >= lowest && second <= highest;
}

utf8proc_option_t options_of(UnicodeForm form) {
  const bool decomposes = form == UnicodeForm::kNfd || form == UnicodeForm::kNfkd;
  const bool is_compatible = form == UnicodeForm::kNfkc || form == UnicodeForm::kNfkd;
  return static_cast<utf8proc_option_t>(UTF8PROC_STABLE |
                                        (decomposes ? UTF8PROC_DECOMPOSE : UTF8PROC_COMPOSE) |
                                        (is_compatible ? UTF8PROC_COMPAT : 0));
}

struct FreeDeleter {
  void operator()(void* memory) const { std::free(memory); }
};

}  // namespace

Utf8Sequence first_sequence(std::string_view bytes) {
  const auto byte = [&](std::size_t index) { return static_cast<unsigned char>(bytes[index]); };
  const std::size_t wanted = length_from_lead(byte(0));
  if (wanted == 0) {
    return {Utf8Sequence::Kind::kMalformed, 1};
  }
  for (std::size_t length = 1; length < wanted; ++length) {
    if (length == bytes.size()) {
      return {Utf8Sequence::Kind::kUnfinished, length};
    }
    const bool continues =
        length == 1 ? may_be_second(byte(0), byte(1)) : is_continuation_byte(bytes[length]);
    if (!continues) {
      return {Utf8Sequence::Kind::kMalformed, length};
    }
  }
  return {Utf8Sequence::Kind::kCharacter, wanted};
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char byte) { return static_cast<unsigned char>(byte) < 0x80; });
}

std::size_t well_formed_length(std::string_view text) {
  std::size_t offset = 0;
  while (offset < text.size()) {
    const Utf8Sequence sequence = first_sequence(text.substr(offset));
    if (sequence.kind != Utf8Sequence::Kind::kCharacter) {
      break;
    }
    offset += sequence.length;
  }
  return offset;
}

bool is_utf8(std::string_view text) {
  return well_formed_length(text) == text.size();
}

void require_utf8(std::string_view text) {
  const std::size_t offset = well_formed_length(text);
  if (offset < text.size()) {
    throw UserError(
        fmt::format("the text is not valid UTF-8 at byte {}; save the file as UTF-8", offset));
  }
}

void append_code_point(std::uint32_t code_point, std::string& text) {
  std::array<utf8proc_uint8_t, 4> bytes{};
  const utf8proc_ssize_t length =
      utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), bytes.data());
  text.append(reinterpret_cast<const char*>(bytes.data()), static_cast<std::size_t>(length));
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

std::size_t leading_white_space(std::string_view text) {
  static const Regex white_space("\\p{White_Space}+");
  return white_space.length_at_start(text);
}

std::size_t trailing_white_space(std::string_view text) {
  std::string_view rest = text;
  while (!rest.empty() && leading_white_space(last_character(rest)) > 0) {
    rest.remove_suffix(last_character(rest).size());
  }
  return text.size() - rest.size();
}

std::string to_unicode_form(std::string_view text, UnicodeForm form) {
  if (is_ascii(text)) {
    return std::string(text);
  }
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t length = utf8proc_map(
      bytes_of(text), static_cast<utf8proc_ssize_t>(text.size()), &mapped, options_of(form));
  const std::unique_ptr<utf8proc_uint8_t, FreeDeleter> owner(mapped);
  if (length < 0) {
    throw EnvironmentError(
        fmt::format("utf8proc_map failed on {} bytes: {}", text.size(), utf8proc_errmsg(length)));
  }
  return std::string(reinterpret_cast<const char*>(mapped), static_cast<std::size_t>(length));
}

std::string to_lower_case(std::string_view text) {
  std::string lower;
  lower.reserve(text.size());
  while (!text.empty()) {
    utf8proc_int32_t code_point = 0;
    const utf8proc_ssize_t length =
        utf8proc_iterate(bytes_of(text), static_cast<utf8proc_ssize_t>(text.size()), &code_point);
    if (length <= 0) {
      throw BugError("to_lower_case was given text that is not UTF-8");
    }
    // The one character whose lower-case form has two; utf8proc knows the first only.
    if (code_point == kCapitalIWithDot) {
      lower += "i\u0307";
    } else {
      append_code_point(static_cast<std::uint32_t>(utf8proc_tolower(code_point)), lower);
    }
    text.remove_prefix(static_cast<std::size_t>(length));
  }
  return lower;
}

}  // namespace bipo
