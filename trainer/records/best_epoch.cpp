#include "trainer/records/best_epoch.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace bipo {
namespace {

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

struct Sides {
  EvaluatedEpoch evaluation;
  double minus = kUnknown;
  double plus = kUnknown;
};

// A better one has a larger margin, so that the first of equal ones is the largest element.
auto best_of(const std::vector<EvaluatedEpoch>& evaluations) {
  return std::max_element(
      evaluations.begin(), evaluations.end(),
      [](const EvaluatedEpoch& a, const EvaluatedEpoch& b) { return a.margin < b.margin; });
}

}  // namespace

std::vector<EvaluatedEpoch> evaluated_epochs(const std::vector<EvalRow>& rows) {
  std::vector<Sides> all;
  for (const EvalRow& row : rows) {
    if (all.empty() || all.back().evaluation.step != row.step) {
      all.push_back({{row.epoch, row.step, 0}, kUnknown, kUnknown});
    }
    if (row.multiplier == -1) {
      all.back().minus = row.margin;
    } else if (row.multiplier == 1) {
      all.back().plus = row.margin;
    }
  }
  std::vector<EvaluatedEpoch> evaluations;
  for (Sides& sides : all) {
    sides.evaluation.margin = sides.plus - sides.minus;
    if (!std::isnan(sides.evaluation.margin)) {
      evaluations.push_back(sides.evaluation);
    }
  }
  return evaluations;
}

std::optional<EvaluatedEpoch> best_epoch(const std::vector<EvalRow>& rows) {
  const std::vector<EvaluatedEpoch> evaluations = evaluated_epochs(rows);
  return evaluations.empty() ? std::nullopt : std::optional(*best_of(evaluations));
}

std::int64_t evaluations_since_best(const std::vector<EvalRow>& rows) {
  const std::vector<EvaluatedEpoch> evaluations = evaluated_epochs(rows);
  return evaluations.empty() ? 0 : evaluations.end() - best_of(evaluations) - 1;
}

}  // namespace bipo
