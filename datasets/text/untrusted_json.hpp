// Parses JSON of files that are not trusted.
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "collectives/foundation/errors.hpp"

namespace bipo {

// No file of a model or of data comes near it.  A parsed value is copied, compared and written by
// recursion, which a deeper one would carry past the end of the stack.
inline constexpr int kDeepestJson = 100;

// Counts the brackets outside of strings; whether `json` is JSON at all is for its parser to say.
inline bool is_nested_too_deeply(std::string_view json) {
  std::ptrdiff_t depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < json.size(); ++i) {
    const char character = json[i];
    if (in_string) {
      i += character == '\\' ? 1 : 0;
      in_string = character != '"';
    } else if (character == '"') {
      in_string = true;
    } else if (character == '[' || character == '{') {
      if (++depth > kDeepestJson) {
        return true;
      }
    } else if (character == ']' || character == '}') {
      --depth;
    }
  }
  return false;
}

// Throws UserError, which begins with `place` and ends with `advice`, for text that is not JSON, is
// nested too deeply or holds a number that no double can.
inline nlohmann::json parse_untrusted_json(std::string_view text, const std::string& place,
                                           std::string_view advice) {
  if (is_nested_too_deeply(text)) {
    throw UserError(
        fmt::format("{}: JSON nested more than {} deep; {}", place, kDeepestJson, advice));
  }
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::parse_error& error) {
    throw UserError(fmt::format("{}: not valid JSON at byte {} ({}); {}", place, error.byte,
                                error.what(), advice));
  } catch (const nlohmann::json::out_of_range& error) {
    throw UserError(fmt::format("{}: JSON with a number that is too large ({}); {}", place,
                                error.what(), advice));
  }
}

}  // namespace bipo
