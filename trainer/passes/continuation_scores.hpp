// Log-probabilities of answers under vectors at a list of settings.
#pragma once

#include <cstdint>
#include <vector>

#include "collectives/session.hpp"
#include "datasets/tokens/token_pair.hpp"
#include "trainer/passes/pair_scores.hpp"
#include "trainer/passes/steered_pass.hpp"

namespace bipo {

// Settings of M vectors.
struct SteeringSettings {
  std::vector<std::vector<double>> coefficients;  // of each setting, one for each vector
  SteeredPositions positions = SteeredPositions::kAll;
};

struct AnswerScore {
  double log_prob = 0;  // nats, summed over the answer's tokens in order
  std::int64_t tokens = 0;
};

// Of each setting, each item, each of its answers.
using ContinuationScores = std::vector<std::vector<std::vector<AnswerScore>>>;

// Scores the answers of `items` given their prompts, `group_size` consecutive items in one packed
// batch; groups are dealt to replicas in turn.  A setting of zeros is computed like any other, so
// that equal settings give equal numbers.  The same on every rank and for any number of replicas;
// the model must be loaded whole.  Throws AgreedFailure (1) where a log-probability is not finite.
// Collective over: dp x tp
ContinuationScores score_continuations(const Decoder& decoder,
                                       const std::vector<Continuations>& items,
                                       std::int64_t group_size, const SteeringVectors& vectors,
                                       const SteeringSettings& settings, const Ranks& ranks,
                                       const Progress& progress);

}  // namespace bipo
