#include "trainer/passes/objective.hpp"

#include <cmath>

namespace bipo {

double log_sigmoid(double x) {
  return x >= 0 ? -std::log1p(std::exp(-x)) : x - std::log1p(std::exp(x));
}

PairObjective pair_objective(const AnswerLogProbs& policy, const AnswerLogProbs& reference,
                             double direction, double beta) {
  const double delta = (policy.chosen - reference.chosen) - (policy.rejected - reference.rejected);
  PairObjective result;
  result.margin = direction * beta * delta;
  result.loss = -log_sigmoid(result.margin);
  result.loss_by_delta = -direction * beta * std::exp(log_sigmoid(-result.margin));
  return result;
}

}  // namespace bipo
