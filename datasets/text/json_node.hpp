// A JSON value that knows its place in the file, for error messages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bipo {

// Refers to `value`, which must outlive it.  Every member throws UserError naming the place and the
// rule when the value is not of the asked kind.
class JsonNode {
 public:
  JsonNode(const nlohmann::json& value, std::string place)
      : value_(&value), place_(std::move(place)) {}

  const nlohmann::json& value() const { return *value_; }
  const std::string& place() const { return place_; }

  std::optional<JsonNode> find(std::string_view key) const;  // nullopt where absent or null
  JsonNode require(std::string_view key) const;
  std::vector<JsonNode> elements() const;  // of an array

  std::string as_string() const;
  bool as_bool() const;
  std::int32_t as_token_id() const;  // an integer from 0 to 2^31 - 2
  std::size_t as_count() const;      // an integer from 0 to 2^31 - 1

  // Refuses members that are not listed, lest a setting be passed over in silence.
  void allow_only(std::initializer_list<std::string_view> keys) const;

  [[noreturn]] void fail(std::string_view rule) const;

 private:
  void require_object() const;

  const nlohmann::json* value_;
  std::string place_;
};

}  // namespace bipo
