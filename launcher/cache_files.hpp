// The files of kept activations that --cache-dir asks for.
#pragma once

#include <filesystem>

namespace bipo {

// Makes the directory where it is missing (its parent must exist) and tries that files can be
// written there.  Throws UserError.
void prepare_cache_directory(const std::filesystem::path& directory);

}  // namespace bipo
