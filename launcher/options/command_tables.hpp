// Declares the options of every command, once.
#pragma once

#include <string>
#include <vector>

#include "experiments/settings/field.hpp"
#include "experiments/settings/settings.hpp"

namespace bipo {

// A command's options, and the text around them.
struct CommandTable {
  std::string command;
  std::string usage;
  std::vector<FieldGroup> groups;
  std::string notes;  // below the options
};

// A command as the pages about all of them show it.
struct DescribedCommand {
  std::string name;
  std::string description;                  // in one line
  std::string argument;                     // the value name of the word before the options, or ""
  std::vector<std::string> argument_names;  // what that word may be, as far as it is fixed
  CommandTable table;
};

// The help shows the values that `options` holds now as the defaults; `options` must outlive the
// table.
CommandTable train_table(TrainOptions& options);
CommandTable sweep_table(SweepOptions& options);
CommandTable collect_table(CollectOptions& options);
CommandTable inspect_table(InspectOptions& options);
CommandTable bench_table(BenchOptions& options);
CommandTable plan_table(PlanOptions& options);
CommandTable extract_table(ExtractOptions& options);
CommandTable generate_table(GenerateOptions& options);
CommandTable export_table(ExportOptions& options);
CommandTable import_table(ImportOptions& options);
CommandTable data_table(ShowDataOptions& options);
CommandTable watch_table(WatchOptions& options);
CommandTable evaluate_table(EvaluateOptions& options);
CommandTable report_table(AnalysisOptions& options);

// Returns the table of a command that takes no options: its page alone.
CommandTable page_table(const std::string& command, const std::string& usage);

}  // namespace bipo
