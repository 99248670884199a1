// Shared by all kinds of data rows: the turns of a conversation, and the treatment of bad rows.
#pragma once

#include <string>

namespace bipo {

// One turn of a conversation.  `role` is "system", "user" or "assistant".
struct Message {
  std::string role;
  std::string content;
};

// How a caller treats rows that are not valid.
enum class BadRows { kRefuse, kSkip };

}  // namespace bipo
