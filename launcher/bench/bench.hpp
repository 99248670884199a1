// The commands `bench` and `plan`, which measure training and predict it.
#pragma once

#include "collectives/session.hpp"
#include "experiments/settings/settings.hpp"

namespace bipo {

// Both return the exit code and print to stdout, bench on world rank 0.
//
// Throws AgreedFailure for a fault found before work begins; later a rank throws alone.  Collective
// over: world
int run_bench_command(const BenchOptions& options, Session& session);

// Predicts what a run needs and how long it takes, from sizes alone.  For one process.  Throws
// UserError.
int run_plan_command(const PlanOptions& options);

}  // namespace bipo
