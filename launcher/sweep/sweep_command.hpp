// The command `sweep`: one vector for every combination of the axes, pack by pack.
#pragma once

#include "collectives/session.hpp"
#include "launcher/options/options.hpp"

namespace bipo {

// Returns the exit code.  Throws AgreedFailure for what is found before work begins; what a rank
// throws later, it throws alone. Collective over: world
int run_sweep_command(const SweepOptions& options, Session& session);

}  // namespace bipo
