// Shared by all kinds of data rows: the turns of a conversation, and the treatment of bad rows.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace bipo {

// One turn of a conversation.  `role` is "system", "user", "assistant", or another one that the
// chat template knows ("tool").
struct Message {
  std::string role;
  std::string content;
  // An object: further members of the message in the file (name, tool_calls, reasoning_content,
  // ...), which the chat template sees, too.  A null `content` here says that the message has none.
  nlohmann::ordered_json extra = nlohmann::ordered_json::object();

  bool operator==(const Message&) const = default;
};

// How a caller treats rows that are not valid.
enum class BadRows { kRefuse, kSkip };

}  // namespace bipo
