// Checks the rules between the options of a command.
#pragma once

#include <set>
#include <string>

#include "experiments/settings/settings.hpp"

namespace bipo {

// The names of the options that were given, on the command line or in the INI file.
using GivenNames = std::set<std::string>;

// Throw UserError with the broken rule.
void require_consistent(const TrainOptions& options, const GivenNames& given);
void require_consistent(const SweepOptions& options, const GivenNames& given);
void require_consistent(const BenchOptions& options, const GivenNames& given);
void require_consistent(const PlanOptions& options, const GivenNames& given);
void require_consistent(const ExtractOptions& options, const GivenNames& given);
void require_consistent(const GenerateOptions& options, const GivenNames& given);
void require_consistent(const EvaluateOptions& options, const GivenNames& given);

}  // namespace bipo
