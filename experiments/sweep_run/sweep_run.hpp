// Runs a sweep on all ranks of a job.
#pragma once

#include "collectives/session.hpp"
#include "experiments/sweep_run/sweep_group.hpp"
#include "experiments/sweep_run/sweep_preparation.hpp"

namespace bipo {

// Trains round after round, until no work is left that no other job does.  `queue` belongs to the
// root and is null on the other ranks.  Returns kInterrupted after a request to stop on any rank.
// Throws AgreedFailure, or EnvironmentError if one group of several has failed, which ends the job.
// Collective over: world
RunStatus run_sweep(const SweepPreparation& sweep, Session& session, SweepQueue* queue,
                    SweepDisplay display);

}  // namespace bipo
