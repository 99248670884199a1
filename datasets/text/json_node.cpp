// A JSON value that knows its place in the file, for error messages.
#include "datasets/text/json_node.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "collectives/foundation/errors.hpp"

namespace bipo {

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

std::int32_t JsonNode::as_token_id() const {
  // One below the largest int32, so that the vocabulary's size can be counted in the same type.
  constexpr std::int64_t kLargest = std::numeric_limits<std::int32_t>::max() - 1;
  const bool in_range = value_->is_number_integer() && *value_ >= 0 && *value_ <= kLargest;
  if (!in_range) {
    fail(fmt::format("{} is no token id; it must be an integer from 0 to {}", value_->dump(),
                     kLargest));
  }
  return value_->get<std::int32_t>();
}

std::size_t JsonNode::as_count() const {
  constexpr std::int64_t kLargest = std::numeric_limits<std::int32_t>::max();
  const bool in_range = value_->is_number_integer() && *value_ >= 0 && *value_ <= kLargest;
  if (!in_range) {
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
