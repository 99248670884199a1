// The BiPO objective of one pair, in closed form (Cao et al., arXiv 2406.00045, equation 2).
#pragma once

#include <cmath>

namespace bipo {

// Log-probabilities of a pair's answers, nats, each summed over its tokens.
struct AnswerLogProbs {
  double chosen = 0;
  double rejected = 0;
};

// Returns log sigmoid(x) without overflow for any argument.
inline double log_sigmoid(double x) {
  return x >= 0 ? -std::log1p(std::exp(-x)) : x - std::log1p(std::exp(x));
}

struct PairObjective {
  double margin = 0;         // d * beta * delta
  double loss = 0;           // -log sigmoid(margin)
  double loss_by_delta = 0;  // d loss / d delta: of the chosen answer's log-probability; minus it,
                             // of the rejected one's
};

// delta = [policy - reference](chosen) - [policy - reference](rejected), for direction d (+1 or
// -1).
inline PairObjective pair_objective(const AnswerLogProbs& policy, const AnswerLogProbs& reference,
                                    double direction, double beta) {
  const double delta = (policy.chosen - reference.chosen) - (policy.rejected - reference.rejected);
  const double margin = direction * beta * delta;
  return {margin, -log_sigmoid(margin), -direction * beta * std::exp(log_sigmoid(-margin))};
}

}  // namespace bipo
