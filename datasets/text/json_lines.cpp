#include "datasets/text/json_lines.hpp"

#include <array>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/untrusted_json.hpp"

namespace bipo {
namespace {

using Json = nlohmann::json;

Message message_from_json(const Json& value, std::string_view key, const std::string& where) {
  if (!value.is_object() || !value.contains("role") || !value.contains("content") ||
      !value["role"].is_string() || !value["content"].is_string()) {
    throw UserError(
        fmt::format("{}: every element of '{}' must be an object with the strings role and content",
                    where, key));
  }
  Message message{value["role"].get<std::string>(), value["content"].get<std::string>()};
  constexpr std::array<std::string_view, 3> kRoles = {"system", "user", "assistant"};
  if (std::find(kRoles.begin(), kRoles.end(), message.role) == kRoles.end()) {
    throw UserError(fmt::format("{}: '{}' has the role '{}'; use system, user or assistant", where,
                                key, message.role));
  }
  return message;
}

}  // namespace

Json parse_json_line(std::string_view line, const std::string& where) {
  require_text(line, where);
  Json row = parse_untrusted_json(line, where, "JSON Lines has one whole object per line");
  if (!row.is_object()) {
    throw UserError(fmt::format(
        "{}: the line holds {} instead of an object; JSON Lines has one object per line", where,
        row.type_name()));
  }
  return row;
}

std::vector<Message> messages_from_json(const Json& value, std::string_view key,
                                        const std::string& where) {
  std::vector<Message> messages;
  for (const Json& element : value) {
    messages.push_back(message_from_json(element, key, where));
  }
  if (messages.empty()) {
    throw UserError(
        fmt::format("{}: '{}' is an empty array; it needs at least one message", where, key));
  }
  return messages;
}

std::vector<Message> prompt_from_json(const Json& value, std::string_view key,
                                      const std::string& where) {
  if (value.is_string()) {
    return {{"user", value.get<std::string>()}};
  }
  return messages_from_json(value, key, where);
}

void require_user_turn_last(const std::vector<Message>& prompt, std::string_view key,
                            const std::string& where) {
  if (prompt.back().role != "user") {
    throw UserError(fmt::format("{}: '{}' must end with a user turn, but ends with '{}'", where,
                                key, prompt.back().role));
  }
  for (const Message& turn : prompt) {
    require_no_nul(turn.content, where);
  }
}

}  // namespace bipo
