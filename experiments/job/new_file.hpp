// The files that a command writes beside those that it reads.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace bipo {

// Throws UserError where `out`, which `option` names, is one of `inputs`; empty paths among them
// are passed over, and so is what lies in a directory of them.
void check_not_input(const std::string& option, const std::filesystem::path& out,
                     const std::vector<std::filesystem::path>& inputs);

// Throws UserError unless `out` can be written: its directory takes new files, it is none of
// `inputs`, and it does not exist or `overwrite` is given.
void check_new_file(const std::string& option, const std::filesystem::path& out, bool overwrite,
                    const std::vector<std::filesystem::path>& inputs);

}  // namespace bipo
