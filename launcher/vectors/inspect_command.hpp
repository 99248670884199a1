// The command `inspect`: what is in a run file.
#pragma once

#include "launcher/options/options.hpp"

namespace bipo {

// Returns the exit code.  Throws UserError for a file that is no run file.
int run_inspect_command(const InspectOptions& options);

}  // namespace bipo
