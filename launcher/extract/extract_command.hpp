// The command `extract`: directions without training, from options to run files.
#pragma once

#include "collectives/session.hpp"
#include "launcher/options/options.hpp"

namespace bipo {

// Returns the exit code.  Throws AgreedFailure for what is found before work begins; what a rank
// throws later, it throws alone. Collective over: world
int run_extract_command(const ExtractOptions& options, Session& session);

}  // namespace bipo
