#include "datasets/text/untrusted_json.hpp"

#include <algorithm>
#include <limits>

#include "collectives/foundation/input_file.hpp"

namespace bipo {

bool is_nested_too_deeply(std::string_view json) {
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

nlohmann::json parse_untrusted_json(std::string_view text, const std::string& place,
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

nlohmann::json read_json_file(const std::filesystem::path& path) {
  if (!std::filesystem::is_regular_file(path)) {
    throw UserError(fmt::format("{}: no such file", path.string()));
  }
  const std::string text = read_input_file(path, kMostTextBytes);
  return parse_untrusted_json(text, path.string(), "download or convert it again");
}

std::optional<JsonNode> JsonNode::find(std::string_view key) const {
  require_object();
  const auto found = value_->find(std::string(key));
  if (found == value_->end() || found->is_null()) {
    return std::nullopt;
  }
  return JsonNode(*found, place_.empty() ? std::string(key) : fmt::format("{}.{}", place_, key));
}

JsonNode JsonNode::require(std::string_view key) const {
  const std::optional<JsonNode> child = find(key);
  if (!child) {
    fail(fmt::format("\"{}\" is missing", key));
  }
  return *child;
}

std::vector<JsonNode> JsonNode::elements() const {
  if (!value_->is_array()) {
    fail("must be an array");
  }
  std::vector<JsonNode> elements;
  for (std::size_t i = 0; i < value_->size(); ++i) {
    elements.emplace_back((*value_)[i], fmt::format("{}[{}]", place_, i));
  }
  return elements;
}

std::string JsonNode::as_string() const {
  if (!value_->is_string()) {
    fail("must be a string");
  }
  return value_->get<std::string>();
}

bool JsonNode::as_bool() const {
  if (!value_->is_boolean()) {
    fail("must be true or false");
  }
  return value_->get<bool>();
}

bool JsonNode::flag_or(std::string_view key, bool fallback) const {
  const std::optional<JsonNode> child = find(key);
  return child ? child->as_bool() : fallback;
}

bool JsonNode::is_integer_up_to(std::int64_t largest) const {
  return value_->is_number_integer() && *value_ >= 0 && *value_ <= largest;
}

std::int32_t JsonNode::as_token_id() const {
  // One below the largest int32, so that the size of the vocabulary fits the same type.
  constexpr std::int64_t kLargest = std::numeric_limits<std::int32_t>::max() - 1;
  if (!is_integer_up_to(kLargest)) {
    fail(fmt::format("{} is no token id; it must be an integer from 0 to {}", value_->dump(),
                     kLargest));
  }
  return value_->get<std::int32_t>();
}

std::size_t JsonNode::as_count() const {
  constexpr std::int64_t kLargest = std::numeric_limits<std::int32_t>::max();
  if (!is_integer_up_to(kLargest)) {
    fail(fmt::format("{} must be an integer from 0 to {}", value_->dump(), kLargest));
  }
  return value_->get<std::size_t>();
}

void JsonNode::allow_only(std::initializer_list<std::string_view> keys) const {
  require_object();
  for (const auto& [key, unused] : value_->items()) {
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) {
      fail(fmt::format("the setting \"{}\" is not implemented", key));
    }
  }
}

void JsonNode::require_object() const {
  if (!value_->is_object()) {
    fail("must be an object");
  }
}

void JsonNode::fail(std::string_view rule) const {
  throw UserError(place_.empty() ? std::string(rule) : fmt::format("{}: {}", place_, rule));
}

}  // namespace bipo
