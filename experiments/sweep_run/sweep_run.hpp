// A sweep at work on all ranks of a job.
#pragma once

#include "collectives/session.hpp"
#include "experiments/sweep_run/sweep_group.hpp"
#include "experiments/sweep_run/sweep_preparation.hpp"

namespace bipo {

// Trains round after round, until nothing is left that no other job does.  `queue` is the root's,
// null on the other ranks.  Returns kInterrupted after a request to stop on any rank.  Throws
// AgreedFailure, or EnvironmentError where one group of several has failed, which takes the job
// down.  Collective over: world
RunStatus run_sweep(const SweepPreparation& sweep, Session& session, SweepQueue* queue,
                    SweepDisplay display);

}  // namespace bipo
