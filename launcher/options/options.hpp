// The command line and the INI file, parsed into the settings of one command.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "experiments/settings/settings.hpp"

namespace bipo {

// What --help and --version print.
struct PrintAndExit {
  std::string text;
};

using Command = std::variant<TrainOptions, SweepOptions, CollectOptions, BenchOptions, PlanOptions,
                             ExtractOptions, ExportOptions, ImportOptions, GenerateOptions,
                             EvaluateOptions, InspectOptions, PrintAndExit>;

// Parses the command line (without the program's name) and the INI file it may name by --config
// (the same option names; the command line wins).  Values are checked for what can be known without
// looking at any file: ranges, names.  Throws UserError; an unknown option or command names the
// nearest known one.
Command parse_command_line(const std::vector<std::string>& arguments);

}  // namespace bipo
