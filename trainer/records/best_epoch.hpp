// Which epoch of a run is the best: by the evaluations of its held-out pairs.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "trainer/records/records.hpp"

namespace bipo {

// An evaluation at the multipliers -1 and +1.
struct EvaluatedEpoch {
  std::int32_t epoch = 0;  // from 0
  std::int64_t step = 0;   // updates done
  double margin = 0;       // nats: the mean margin at +1 less that at -1, never NaN
};

// Returns the evaluations at both multipliers, in their order.  The rows of one step must follow
// each other.
std::vector<EvaluatedEpoch> evaluated_epochs(const std::vector<EvalRow>& rows);

// Returns the one with the largest margin, of equal ones the earliest; none where nothing was
// evaluated at both multipliers.
std::optional<EvaluatedEpoch> best_epoch(const std::vector<EvalRow>& rows);

// Returns how many evaluations came after the best one.
std::int64_t evaluations_since_best(const std::vector<EvalRow>& rows);

}  // namespace bipo
