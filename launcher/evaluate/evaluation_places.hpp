// Where `evaluate` writes, held against what it reads.
#pragma once

#include "launcher/options/options.hpp"

namespace bipo {

// Throws UserError where --out or --judge-export cannot be written, is one of the inputs or the
// other of the two, or exists without --overwrite.  Without --model, --out must be an evaluation
// file that takes scores.
void check_evaluation_places(const EvaluateOptions& options);

}  // namespace bipo
