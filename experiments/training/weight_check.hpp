// The check that --check-weights asks for, by all ranks before work begins.
#pragma once

#include <vector>

#include "collectives/session.hpp"
#include "experiments/training/training_inputs.hpp"

namespace bipo {

// Reads all weights of the models, the ranks of each node sharing the work so that every node's
// files are seen whole.  Throws AgreedFailure (2) on every rank, naming each file and tensor with
// numbers that are not finite.  Collective over: world
void check_weights(const std::vector<const TrainingInputs*>& models, Session& session);

}  // namespace bipo
