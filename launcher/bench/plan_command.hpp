// The command `plan`: what a run needs and how long it takes, from sizes alone.
#pragma once

#include "launcher/options/options.hpp"

namespace bipo {

// Returns the exit code; prints to stdout.  Throws UserError.
int run_plan_command(const PlanOptions& options);

}  // namespace bipo
