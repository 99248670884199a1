// Parses JSON from files that are not trusted, and reads checked values out of it.
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "collectives/foundation/errors.hpp"

namespace bipo {

// Real files of models or data are far flatter.  Copying, comparing and writing a parsed value
// recurses, so deeper values could overflow the stack.
inline constexpr int kDeepestJson = 100;

// Returns the offset of the first character outside of strings for which `stops` is true, asked in
// order; the text's size if there is none.
template <typename Stops>
std::size_t find_outside_strings(std::string_view json, const Stops& stops) {
  bool in_string = false;
  for (std::size_t i = 0; i < json.size(); ++i) {
    const char character = json[i];
    if (in_string) {
      i += character == '\\' ? 1 : 0;
      in_string = character != '"';
    } else if (character == '"') {
      in_string = true;
    } else if (stops(character)) {
      return i;
    }
  }
  return json.size();
}

// Counts the brackets outside of strings; does not check that `json` is JSON.
bool is_nested_too_deeply(std::string_view json);

// Throws UserError, which begins with `place` and ends with `advice`, for text that is not JSON, is
// nested too deeply or holds a number outside the range of a double.
nlohmann::json parse_untrusted_json(std::string_view text, const std::string& place,
                                    std::string_view advice);

// The same, with the members of objects in the text's order, as Python keeps them.
nlohmann::ordered_json parse_ordered_json(std::string_view text, const std::string& place,
                                          std::string_view advice);

// Throws UserError naming the file when it is missing, unreadable, not JSON or nested too deeply.
nlohmann::json read_json_file(const std::filesystem::path& path);

// Returns the same with the members of objects in the file's order.
nlohmann::ordered_json read_ordered_json_file(const std::filesystem::path& path);

// A JSON value with its place in the file, for error messages.  Refers to `value`, which must
// outlive it.  Every member throws UserError naming the place and the rule when the value is not of
// the requested kind.
class JsonNode {
 public:
  JsonNode(const nlohmann::json& value, std::string place)
      : value_(&value), place_(std::move(place)) {}

  const nlohmann::json& value() const { return *value_; }
  const std::string& place() const { return place_; }

  std::optional<JsonNode> find(std::string_view key) const;  // nullopt if absent or null
  JsonNode require(std::string_view key) const;
  std::vector<JsonNode> elements() const;  // of an array

  std::string as_string() const;
  bool as_bool() const;
  bool flag_or(std::string_view key, bool fallback) const;
  std::int32_t as_token_id() const;  // an integer from 0 to 2^31 - 2
  std::size_t as_count() const;      // an integer from 0 to 2^31 - 1

  // Refuses members that are not listed, so that no setting is silently ignored.
  void allow_only(std::initializer_list<std::string_view> keys) const;

  [[noreturn]] void fail(std::string_view rule) const;

 private:
  bool is_integer_up_to(std::int64_t largest) const;
  void require_object() const;

  const nlohmann::json* value_;
  std::string place_;
};

// Returns `read` of the file's document as a JsonNode; all complaints begin with the file's name.
template <typename Read>
auto read_json_file(const std::filesystem::path& path, const Read& read) {
  const nlohmann::json document = read_json_file(path);
  try {
    return read(JsonNode(document, ""));
  } catch (const UserError& error) {
    throw UserError(fmt::format("{}: {}", path.string(), error.what()));
  }
}

}  // namespace bipo
