// The page of a command, as --help and help print it.
#pragma once

#include <string>

#include "launcher/options/command_tables.hpp"

namespace bipo {

// Columns of the page.
inline constexpr std::size_t kHelpWidth = 100;

// Returns usage, options and notes.  Options are laid out within kHelpWidth columns, also where a
// list of values is longer; usage and notes stay as they are.
std::string help_page(const CommandTable& table);

}  // namespace bipo
