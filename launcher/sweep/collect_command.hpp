// The command `collect`: the run files of a sweep as one file.
#pragma once

#include "launcher/options/options.hpp"

namespace bipo {

// Returns the exit code, 0 also where cells are missing.  Throws UserError for a directory that is
// no sweep's and for a file that must not be replaced.
int run_collect_command(const CollectOptions& options);

}  // namespace bipo
