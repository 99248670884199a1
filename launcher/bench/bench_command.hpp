// The command `bench`: a few training steps, timed, next to what the machine can do at most.
#pragma once

#include "collectives/session.hpp"
#include "launcher/options/options.hpp"

namespace bipo {

// Returns the exit code; world rank 0 prints to stdout.  Throws AgreedFailure for what is found
// before work begins; what a rank throws later, it throws alone. Collective over: world
int run_bench_command(const BenchOptions& options, Session& session);

}  // namespace bipo
