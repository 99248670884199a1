// JSON Lines and JSON arrays: one object per row, and the conversations in them.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "datasets/text/conversation.hpp"
#include "datasets/text/data_text.hpp"

namespace bipo {

// Calls `visit(line, "file:line")` for every line that is not blank.
template <typename Visit>
void for_each_line(std::string_view text, const std::string& file, const Visit& visit) {
  std::size_t line_number = 0;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    ++line_number;
    if (!is_blank(line)) {
      visit(line, fmt::format("{}:{}", file, line_number));
    }
  }
}

// Calls `visit(element, "file:line")` with the text of every element of a JSON array, and the line
// on which it begins.  Throws UserError for an array that is not closed, text after it, and a comma
// without an element; the elements' own text is the caller's to check.
void for_each_element(
    std::string_view array, const std::string& file,
    const std::function<void(std::string_view element, const std::string& where)>& visit);

// The functions below throw UserError, which begins with `where`.

inline constexpr std::string_view kLineAdvice = "JSON Lines has one whole object per line";

// Refuses a line that is not UTF-8 text or no JSON object.
nlohmann::json parse_json_line(std::string_view line, const std::string& where);

// The same for any text of one row, with the members in the text's order; complaints end with
// `advice`.
nlohmann::ordered_json parse_json_row(std::string_view text, const std::string& where,
                                      std::string_view advice = kLineAdvice);

// Reads a non-empty array of messages: {role, content}, or ShareGPT's {from, value}.  A content may
// be an array of text parts, which are joined; other parts are refused by name.  It may be null or
// absent beside tool_calls: the message's text is then "", and Message::extra has a null `content`
// beside all members that are neither role nor content.  Roles are kept as they are, ShareGPT's
// translated.
std::vector<Message> messages_from_json(const nlohmann::ordered_json& value, std::string_view key,
                                        const std::string& where);

// Reads such an array, or a string as the user's turn.
std::vector<Message> prompt_from_json(const nlohmann::ordered_json& value, std::string_view key,
                                      const std::string& where);

// Refuses a prompt that does not end with a turn to answer (a user's or a tool's), or holds NUL.
void require_user_turn_last(const std::vector<Message>& prompt, std::string_view key,
                            const std::string& where);

}  // namespace bipo
