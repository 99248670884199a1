// What this process is doing, in the words of its progress, for messages to its user.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace bipo {

// Any thread may call both; the text is short: "train 12/300", or "" at the start.
void set_activity(std::string_view name, std::int64_t done, std::int64_t total);
std::string activity();

// Whether the progress has a line without an end on standard error: what another thread writes
// there then begins with a line end.  Any thread may call both.
void note_unfinished_line(bool is_there);
bool has_unfinished_line();

}  // namespace bipo
