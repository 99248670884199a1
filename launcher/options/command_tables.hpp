// Declares the options of every command, once.
#pragma once

#include "experiments/settings/settings.hpp"
#include "launcher/options/option_table.hpp"

namespace bipo {

// The help shows the values that `options` holds now as the defaults; `options` must outlive the
// table.
CommandTable train_table(TrainOptions& options);
CommandTable sweep_table(SweepOptions& options);
CommandTable collect_table(CollectOptions& options);
CommandTable bench_table(BenchOptions& options);
CommandTable plan_table(PlanOptions& options);
CommandTable extract_table(ExtractOptions& options);
CommandTable generate_table(GenerateOptions& options);
CommandTable export_table(ExportOptions& options);
CommandTable import_table(ImportOptions& options);
CommandTable evaluate_table(EvaluateOptions& options);

}  // namespace bipo
