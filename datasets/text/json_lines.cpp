#include "datasets/text/json_lines.hpp"

#include <array>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/untrusted_json.hpp"

namespace bipo {
namespace {

using Ordered = nlohmann::ordered_json;

// Returns where the JSON value at the beginning of `text` ends: at a comma or bracket outside of
// it.
std::size_t value_end(std::string_view text) {
  std::ptrdiff_t depth = 0;
  return find_outside_strings(text, [&](char character) {
    const bool opens = character == '[' || character == '{';
    const bool closes = character == ']' || character == '}';
    if (depth == 0 && (closes || character == ',')) {
      return true;
    }
    depth += opens ? 1 : closes ? -1 : 0;
    return false;
  });
}

// Walks through the text of an array, counting lines.
class ArrayText {
 public:
  ArrayText(std::string_view text, const std::string& file) : text_(text), file_(file) {}

  std::string where() const { return fmt::format("{}:{}", file_, line_); }
  bool at_end() const { return text_.empty(); }

  std::string_view take(std::size_t length) {
    const std::string_view taken = text_.substr(0, length);
    line_ += static_cast<std::size_t>(std::count(taken.begin(), taken.end(), '\n'));
    text_.remove_prefix(taken.size());
    return taken;
  }
  void skip_blanks() { take(std::min(text_.find_first_not_of(kBlanks), text_.size())); }
  bool take_character(char expected) {
    if (!text_.starts_with(expected)) {
      return false;
    }
    take(1);
    return true;
  }
  bool is_at(char expected) const { return text_.starts_with(expected); }
  std::string_view take_value() { return take(value_end(text_)); }

  [[noreturn]] void fail(std::string_view rule) const {
    throw UserError(fmt::format("{}: {}", where(), rule));
  }

 private:
  std::string_view text_;
  std::string file_;
  std::size_t line_ = 1;
};

std::string role_of(const Ordered& message, const std::string& where) {
  if (message.contains("role")) {
    return message["role"].get<std::string>();
  }
  constexpr std::array<std::array<std::string_view, 2>, 11> kShareGptRoles = {{
      {"human", "user"},
      {"user", "user"},
      {"gpt", "assistant"},
      {"chatgpt", "assistant"},
      {"assistant", "assistant"},
      {"model", "assistant"},
      {"bot", "assistant"},
      {"system", "system"},
      {"tool", "tool"},
      {"observation", "tool"},
      {"developer", "developer"},
  }};
  const auto speaker = message["from"].get<std::string>();
  for (const auto& [name, role] : kShareGptRoles) {
    if (speaker == name) {
      return std::string(role);
    }
  }
  throw UserError(fmt::format(
      "{}: a message is from '{}'; use human, gpt, system or observation, or role and content",
      where, speaker));
}

std::string text_of_parts(const Ordered& parts, std::string_view key, const std::string& where) {
  std::string text;
  for (const Ordered& part : parts) {
    if (!part.is_object() || !part.contains("type") || !part["type"].is_string()) {
      throw UserError(fmt::format(
          "{}: '{}' has a content that is an array, whose parts must be objects such as "
          "{{\"type\": \"text\", \"text\": ...}}; or use the strings role and content",
          where, key));
    }
    const auto type = part["type"].get<std::string>();
    if (type != "text") {
      throw UserError(fmt::format(
          "{}: '{}' has a content part of the type '{}'; only text is supported, because only the "
          "text part of a model is computed, so leave the row out with --skip-bad",
          where, key, type));
    }
    if (!part.contains("text") || !part["text"].is_string()) {
      throw UserError(
          fmt::format("{}: '{}' has a text part without the string 'text'", where, key));
    }
    text += part["text"].get<std::string>();
  }
  return text;
}

bool has_value(const Ordered& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && !found->is_null() && !(found->is_array() && found->empty());
}

Message message_from_json(const Ordered& value, std::string_view key, const std::string& where) {
  const bool share_gpt = value.is_object() && !value.contains("role") && value.contains("from");
  const char* role = share_gpt ? "from" : "role";
  const char* content = share_gpt ? "value" : "content";
  const auto refuse = [&] {
    throw UserError(
        fmt::format("{}: every element of '{}' must be an object with the strings role and content",
                    where, key));
  };
  if (!value.is_object() || !value.contains(role) || !value[role].is_string()) {
    refuse();
  }
  Message message{role_of(value, where), ""};
  const auto found = value.find(content);
  if (found == value.end() || found->is_null()) {
    if (!has_value(value, "tool_calls") && !has_value(value, "function_call")) {
      refuse();
    }
    message.extra["content"] = nullptr;
  } else if (found->is_array()) {
    message.content = text_of_parts(*found, key, where);
  } else if (found->is_string()) {
    message.content = found->get<std::string>();
  } else {
    refuse();
  }
  for (const auto& [name, member] : value.items()) {
    if (name != role && name != content) {
      message.extra[name] = member;
    }
  }
  return message;
}

}  // namespace

void for_each_element(
    std::string_view array, const std::string& file,
    const std::function<void(std::string_view element, const std::string& where)>& visit) {
  ArrayText text(array, file);
  text.skip_blanks();
  if (!text.take_character('[')) {
    text.fail("an array of rows begins with '['");
  }
  text.skip_blanks();
  while (!text.is_at(']')) {
    if (text.at_end()) {
      text.fail("the array of rows is not closed with ']'; the file may be cut short");
    }
    const std::string where = text.where();
    const std::string_view element = text.take_value();
    if (is_blank(element)) {
      text.fail("a row is missing before the comma or bracket; remove the comma");
    }
    visit(element, where);
    const bool more = text.take_character(',');
    text.skip_blanks();
    if (more && text.is_at(']')) {
      text.fail("a comma stands before the closing ']'; remove the comma");
    }
    if (!more && !text.at_end() && !text.is_at(']')) {
      text.fail("a bracket closes what is not open; get the file again");
    }
  }
  text.take_character(']');
  text.skip_blanks();
  if (!text.at_end()) {
    text.fail("text follows the array of rows; a file holds one array, or one object per line");
  }
}

nlohmann::json parse_json_line(std::string_view line, const std::string& where) {
  return parse_json_row(line, where, kLineAdvice);
}

Ordered parse_json_row(std::string_view text, const std::string& where, std::string_view advice) {
  require_text(text, where);
  Ordered row = parse_ordered_json(text, where, advice);
  if (!row.is_object()) {
    throw UserError(
        fmt::format("{}: the row is {} instead of an object; {}", where, row.type_name(), advice));
  }
  return row;
}

std::vector<Message> messages_from_json(const Ordered& value, std::string_view key,
                                        const std::string& where) {
  std::vector<Message> messages;
  for (const Ordered& element : value) {
    messages.push_back(message_from_json(element, key, where));
  }
  if (messages.empty()) {
    throw UserError(
        fmt::format("{}: '{}' is an empty array; it needs at least one message", where, key));
  }
  return messages;
}

std::vector<Message> prompt_from_json(const Ordered& value, std::string_view key,
                                      const std::string& where) {
  if (value.is_string()) {
    return {{"user", value.get<std::string>()}};
  }
  return messages_from_json(value, key, where);
}

void require_user_turn_last(const std::vector<Message>& prompt, std::string_view key,
                            const std::string& where) {
  const std::string& last = prompt.back().role;
  if (last == "assistant" || last == "system" || last == "developer") {
    throw UserError(
        fmt::format("{}: '{}' must end with a user turn, but ends with '{}'", where, key, last));
  }
  for (const Message& turn : prompt) {
    require_no_nul(turn.content, where);
  }
}

}  // namespace bipo
