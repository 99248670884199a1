// The command `evaluate`: what vectors do to a model's answers, and what that costs.
#pragma once

#include "collectives/session.hpp"
#include "launcher/options/options.hpp"

namespace bipo {

// With a model.  Returns the exit code.  Throws AgreedFailure for what is found before work begins;
// what a rank throws later, it throws alone. Collective over: world
int run_evaluate_command(const EvaluateOptions& options, Session& session);

}  // namespace bipo
