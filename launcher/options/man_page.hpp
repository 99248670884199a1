// The manual page, generated from the tables of options.
#pragma once

#include <string>
#include <vector>

#include "launcher/options/command_tables.hpp"

namespace bipo {

// Returns the page of section 1 in the macros of man(7): all commands with all options.
std::string man_page(const std::vector<DescribedCommand>& commands, const std::string& version);

}  // namespace bipo
