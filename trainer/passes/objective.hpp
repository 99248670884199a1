// The BiPO objective of one pair, in closed form (Cao et al., arXiv 2406.00045, equation 2).
#pragma once

#include <cstdint>

namespace bipo {

// Log-probabilities of a pair's answers, nats, each summed over its tokens.
struct AnswerLogProbs {
  double chosen = 0;
  double rejected = 0;
};

// log sigmoid without overflow for any argument.
double log_sigmoid(double x);

struct PairObjective {
  double margin = 0;         // d * beta * delta
  double loss = 0;           // -log sigmoid(margin)
  double loss_by_delta = 0;  // d loss / d delta: of the chosen answer's log-probability; minus it,
                             // of the rejected one's
};

// delta = [policy - reference](chosen) - [policy - reference](rejected), for direction d (+1 or
// -1).
PairObjective pair_objective(const AnswerLogProbs& policy, const AnswerLogProbs& reference,
                             double direction, double beta);

}  // namespace bipo
