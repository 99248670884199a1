// What all kinds of data rows share: the turns of a conversation, and how bad rows are treated.
#pragma once

#include <string>

namespace bipo {

// One turn of a conversation.  `role` is "system", "user" or "assistant".
struct Message {
  std::string role;
  std::string content;
};

// What a caller wants done with rows that are not valid.
enum class BadRows { kRefuse, kSkip };

}  // namespace bipo
