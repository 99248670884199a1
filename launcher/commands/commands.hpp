// The program's commands, called once their options are parsed.  All return the exit code and throw
// UserError, EnvironmentError, BugError, or, if ranks agree on a failure, AgreedFailure.
#pragma once

#include "collectives/session.hpp"
#include "experiments/settings/settings.hpp"

namespace bipo {

// For one process: these do not communicate.
int run_export_command(const ExportOptions& options);
int run_import_command(const ImportOptions& options);
int run_data_command(const ShowDataOptions& options);
int run_version_command();                                    // --version --verbose
int run_watch_command(const WatchOptions& options);           // until Ctrl-C or the end of the work
int run_judge_files_command(const EvaluateOptions& options);  // evaluate without a model

// Collective over: world
int run_train_command(const TrainOptions& options, Session& session);
int run_sweep_command(const SweepOptions& options, Session& session);
int run_extract_command(const ExtractOptions& options, Session& session);
int run_generate_command(const GenerateOptions& options, Session& session);
int run_evaluate_command(const EvaluateOptions& options, Session& session);

}  // namespace bipo
