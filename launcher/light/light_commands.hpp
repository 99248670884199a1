// The commands that need neither libtorch nor MPI.  bipo-dist runs them itself, because loading
// those libraries takes longer than the commands.
#pragma once

#include "experiments/settings/settings.hpp"
#include "launcher/options/options.hpp"

namespace bipo {

// All return the exit code and throw UserError, EnvironmentError or BugError.  They are for one
// process and do not communicate.
int run_collect_command(const CollectOptions& options);
int run_inspect_command(const InspectOptions& options);
// Becomes another program; returns only by an exception.
int run_report_command(const AnalysisOptions& options);

// Whether run_light_command() takes the command: one of those above, or a text to print.
bool is_light_command(const Command& command);
int run_light_command(const Command& command);

}  // namespace bipo
