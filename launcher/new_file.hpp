// The file that a command writes from another one.
#pragma once

#include <filesystem>

namespace bipo {

// Throws UserError unless --out can be written: its directory takes new files, it is not `source`,
// and it does not exist or `overwrite` is given.
void check_new_file(const std::filesystem::path& out, bool overwrite,
                    const std::filesystem::path& source);

}  // namespace bipo
