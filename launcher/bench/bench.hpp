// The commands `bench` and `plan`, which measure training and predict it.
#pragma once

#include <string>

#include "collectives/session.hpp"
#include "experiments/settings/settings.hpp"
#include "experiments/training/run_preparation.hpp"

namespace bipo {

// Both return the exit code and print to stdout, bench on world rank 0.
//
// Throws AgreedFailure for a fault found before work begins; later a rank throws alone.  Collective
// over: world
int run_bench_command(const BenchOptions& options, Session& session);

// Predicts what a run needs and how long it takes, from sizes alone.  For one process.  Throws
// UserError.
int run_plan_command(const PlanOptions& options);

// Returns what `plan` says of a prepared run in the arrangement of its ranks, of which
// `local_ranks` are on this host; measures this host.  Local.
std::string planned_cost(const JobPreparation& job, int local_ranks);

}  // namespace bipo
