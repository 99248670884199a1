// JSON Lines: one object per line, and the conversations in them.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
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

// The functions below throw UserError, which begins with `where`.

// Refuses a line that is not UTF-8 text or no JSON object.
nlohmann::json parse_json_line(std::string_view line, const std::string& where);

// Reads a non-empty array of {role, content}.
std::vector<Message> messages_from_json(const nlohmann::json& value, std::string_view key,
                                        const std::string& where);

// Reads such an array, or a string as the user's turn.
std::vector<Message> prompt_from_json(const nlohmann::json& value, std::string_view key,
                                      const std::string& where);

// Refuses a prompt that does not end with a user turn or holds NUL.
void require_user_turn_last(const std::vector<Message>& prompt, std::string_view key,
                            const std::string& where);

}  // namespace bipo
