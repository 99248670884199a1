// The command `export`: the vector of a run file in the format of another program.
#pragma once

#include "launcher/options/options.hpp"

namespace bipo {

// Returns the exit code.  Throws UserError for a file that is no run file, has no such vector or
// one that the format cannot hold, and for an --out that must not be replaced.
int run_export_command(const ExportOptions& options);

}  // namespace bipo
