// What this process is doing, in the words of its progress, for messages to its user.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace bipo {

// Any thread may call both; the text is short: "train 12/300", or "" at the start.
void set_activity(std::string_view name, std::int64_t done, std::int64_t total);
std::string activity();

}  // namespace bipo
