#include "datasets/text/untrusted_json.hpp"

#include <algorithm>
#include <limits>

#include "collectives/foundation/input_file.hpp"

namespace bipo {

bool is_nested_too_deeply(std::string_view json) {
  std::ptrdiff_t depth = 0;
  const auto goes_too_deep = [&](char character) {
    depth += character == '[' || character == '{' ? 1 : 0;
    depth -= character == ']' || character == '}' ? 1 : 0;
    return depth > kDeepestJson;
  };
  return find_outside_strings(json, goes_too_deep) < json.size();
}

namespace {

// Returns the parser's own words without its name for the error and the place.
std::string reason_of(std::string_view message) {
  for (const std::string_view end : {std::string_view("] "), std::string_view("parse error")}) {
    if (const std::size_t at = message.find(end); at != std::string_view::npos) {
      message.remove_prefix(end == "] " ? at + end.size() : message.find(": ", at) + 2);
    }
  }
  return std::string(message);
}

// Says what people get wrong most often; `byte` counts up to the character that is refused.
std::string parse_error_reason(std::string_view text, std::size_t byte, std::string_view message) {
  const std::size_t at = std::min(byte, text.size()) - (byte == 0 ? 0 : 1);
  const char refused = at < text.size() ? text[at] : '\0';
  const std::size_t before =
      at == 0 ? std::string_view::npos : text.find_last_not_of(" \t\r\n", at - 1);
  if ((refused == '}' || refused == ']') && before != std::string_view::npos &&
      text[before] == ',') {
    return fmt::format("a comma stands before the closing '{}'; remove the comma", refused);
  }
  if (refused == '\'') {
    return "text in single quotes, as Python prints it; JSON has double quotes";
  }
  return reason_of(message);
}

template <typename Json>
Json parse_json(std::string_view text, const std::string& place, std::string_view advice) {
  if (is_nested_too_deeply(text)) {
    throw UserError(
        fmt::format("{}: JSON nested more than {} deep; {}", place, kDeepestJson, advice));
  }
  try {
    return Json::parse(text);
  } catch (const nlohmann::json::parse_error& error) {
    throw UserError(fmt::format("{}: not valid JSON at byte {} ({}); {}", place, error.byte,
                                parse_error_reason(text, error.byte, error.what()), advice));
  } catch (const nlohmann::json::out_of_range& error) {
    throw UserError(fmt::format("{}: JSON with a number that is too large ({}); {}", place,
                                reason_of(error.what()), advice));
  }
}

std::string content_of_file(const std::filesystem::path& path) {
  std::error_code unreachable;
  if (!std::filesystem::exists(path, unreachable)) {
    throw UserError(fmt::format("{}: no such file", path.string()));
  }
  return read_input_file(path, kMostTextBytes);
}

}  // namespace

nlohmann::json parse_untrusted_json(std::string_view text, const std::string& place,
                                    std::string_view advice) {
  return parse_json<nlohmann::json>(text, place, advice);
}

nlohmann::ordered_json parse_ordered_json(std::string_view text, const std::string& place,
                                          std::string_view advice) {
  return parse_json<nlohmann::ordered_json>(text, place, advice);
}

nlohmann::json read_json_file(const std::filesystem::path& path) {
  return parse_untrusted_json(content_of_file(path), path.string(), "download or convert it again");
}

nlohmann::ordered_json read_ordered_json_file(const std::filesystem::path& path) {
  return parse_ordered_json(content_of_file(path), path.string(), "download or convert it again");
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
