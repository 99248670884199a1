// Checks weights on all ranks before work begins, for --check-weights.
#pragma once

#include <vector>

#include "collectives/session.hpp"
#include "experiments/training/training_inputs.hpp"

namespace bipo {

// Reads all weights of the models; the ranks of each node share the work, so that each node's files
// are checked completely.  Throws AgreedFailure (2) on every rank, naming each file and tensor with
// numbers that are not finite.  Collective over: world
void check_weights(const std::vector<const TrainingInputs*>& models, Session& session);

}  // namespace bipo
