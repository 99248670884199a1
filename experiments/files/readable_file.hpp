// Whether a file that is about to be opened is one.
#pragma once

#include <filesystem>
#include <string>

namespace bipo {

// Throws UserError, which names `kind` ("a run file") and the command that writes such files
// ("train"), unless `path` is a regular file that may be read.  Libraries' own messages for these
// cases are about their internals.
void require_readable_file(const std::filesystem::path& path, const std::string& kind,
                           const std::string& command);

}  // namespace bipo
