// The command `generate`: answers to prompts under vectors, at several multipliers.
#pragma once

#include "collectives/session.hpp"
#include "launcher/options/options.hpp"

namespace bipo {

// Returns the exit code.  Throws UserError before any work, AgreedFailure where a rank fails.
// Collective over: world
int run_generate_command(const GenerateOptions& options, Session& session);

}  // namespace bipo
