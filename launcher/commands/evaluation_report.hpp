// An evaluation as text for a terminal.
#pragma once

#include <string>
#include <vector>

#include "experiments/evaluation/evaluation_file.hpp"

namespace bipo {

// All tables but the samples and the judges' single scores; those without rows are left out.
std::string evaluation_text(const Evaluation& evaluation);

// The judges' table alone; "" without rows.
std::string judge_text(const std::vector<JudgeSummary>& rows);

}  // namespace bipo
