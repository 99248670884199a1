// Formats an evaluation for a terminal.
#pragma once

#include <string>
#include <vector>

#include "experiments/evaluation/evaluation_file.hpp"

namespace bipo {

// Returns all tables except those of single items, random directions beyond the first as one line;
// omits tables without rows.
std::string evaluation_text(const Evaluation& evaluation);

// Returns the judges' table alone, "" without rows.
std::string judge_text(const std::vector<JudgeSummary>& rows, const JudgeScale& scale);

}  // namespace bipo
