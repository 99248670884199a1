// The command `train`: one training run, from options to a run file.
#pragma once

#include "collectives/session.hpp"
#include "launcher/options/options.hpp"

namespace bipo {

// Returns the exit code.  Throws AgreedFailure for what is found before work begins; what a rank
// throws later, it throws alone. Collective over: world
int run_train_command(const TrainOptions& options, Session& session);

}  // namespace bipo
