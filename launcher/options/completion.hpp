// Completion for shells, generated from the tables of options.
#pragma once

#include <string>
#include <vector>

#include "launcher/options/command_tables.hpp"

namespace bipo {

// Return a script that completes commands, options, values with a fixed set of names, and the names
// of files and directories.  `commands` are in the order of the help.

// For bash 4 and later: to be sourced, or to be found by bash-completion.
std::string bash_completion(const std::vector<DescribedCommand>& commands);

// For zsh: to be sourced after compinit, or to lie as _bipo-dist in a folder of $fpath.
std::string zsh_completion(const std::vector<DescribedCommand>& commands);

}  // namespace bipo
