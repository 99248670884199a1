// Parses the command line and the INI file into the settings of one command.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "experiments/settings/settings.hpp"

namespace bipo {

// The text that --help, --version, help, completion and man print.
struct PrintAndExit {
  std::string text;
};

// --version --verbose, which asks the libraries themselves.
struct DescribeBuild {};

using Command = std::variant<TrainOptions, SweepOptions, CollectOptions, BenchOptions, PlanOptions,
                             ExtractOptions, ExportOptions, ImportOptions, GenerateOptions,
                             EvaluateOptions, ShowDataOptions, AnalysisOptions, InspectOptions,
                             WatchOptions, PrintAndExit, DescribeBuild>;

// Parses the command line (without the program's name) and the INI file that --config may name (the
// same option names; the command line wins).  Checks values without reading other files: ranges,
// names.  Throws UserError; for an unknown option or command it names the nearest known one.
Command parse_command_line(const std::vector<std::string>& arguments);

// Returns "bipo-dist 0.1.0 (commit ..., CPU only)" and a line break.
std::string version_text();

}  // namespace bipo
