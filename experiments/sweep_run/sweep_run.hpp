// Runs a sweep on all ranks of a job.
#pragma once

#include "collectives/session.hpp"
#include "experiments/sweep_run/sweep_group.hpp"
#include "experiments/sweep_run/sweep_preparation.hpp"

namespace bipo {

struct SweepEnd {
  RunStatus status = RunStatus::kComplete;
  bool has_unsaved = false;  // the machine, for example its disk, failed cells that are left to do
};

// Trains round after round, until no work is left that no other job does.  `queue` belongs to the
// root and is null on the other ranks.  Ends as kInterrupted after a request to stop on any rank.
// Returns the same on every rank.
// Throws AgreedFailure, or EnvironmentError if one group of several has failed, which ends the job.
// Collective over: world
SweepEnd run_sweep(const SweepPreparation& sweep, Session& session, SweepQueue* queue,
                   SweepDisplay display);

}  // namespace bipo
