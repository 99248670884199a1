// Checks the files that a command writes against those that it reads.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace bipo {

// Throws UserError if `out`, the value of `option`, is one of `inputs`.  Ignores empty paths among
// the inputs, and files inside input directories.
void check_not_input(const std::string& option, const std::filesystem::path& out,
                     const std::vector<std::filesystem::path>& inputs);

// Throws UserError unless `out` can be written: its directory accepts new files, it is not one of
// `inputs`, and it does not exist or `overwrite` is given.
void check_new_file(const std::string& option, const std::filesystem::path& out, bool overwrite,
                    const std::vector<std::filesystem::path>& inputs);

}  // namespace bipo
