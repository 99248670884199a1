// Formats an evaluation for a terminal.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "experiments/evaluation/evaluation_file.hpp"

namespace bipo {

// Returns all tables except those of single items, random directions beyond the first as one line;
// omits tables without rows.
std::string evaluation_text(const Evaluation& evaluation);

// Returns the line about several random directions as an object: draws (their number), least and
// most (nats by which they move propensity), vector (the same for the vector), as_far (how many of
// them move it as far) and p; null where there are not several.
nlohmann::ordered_json random_directions_as_json(const Evaluation& evaluation);

// Returns the judges' table alone, "" without rows.
std::string judge_text(const std::vector<JudgeSummary>& rows, const JudgeScale& scale);

}  // namespace bipo
