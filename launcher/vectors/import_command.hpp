// The command `import`: a vector in another format becomes a run file.
#pragma once

#include "launcher/options/options.hpp"

namespace bipo {

// Returns the exit code.  Throws UserError for a file that read_vector_file() refuses, for one that
// does not say its layer without --layer, and for an --out that must not be replaced.
int run_import_command(const ImportOptions& options);

}  // namespace bipo
