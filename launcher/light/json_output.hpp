// Prints what a command found as JSON, for programs.
#pragma once

#include <nlohmann/json_fwd.hpp>

namespace bipo {

// Prints one value to standard output, indented by two blanks, with a line break at its end.
// Numbers that are not finite become null; bytes that are not UTF-8, as the names of files may hold
// them, become U+FFFD.
void print_json(const nlohmann::ordered_json& json);

}  // namespace bipo
