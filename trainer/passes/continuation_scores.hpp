// What vectors do at a list of settings: log-probabilities of answers, and KL(p_0 || p_m) over
// prompts where nothing should change.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "collectives/session.hpp"
#include "datasets/tokens/token_pair.hpp"
#include "trainer/passes/pair_scores.hpp"
#include "trainer/passes/scoring.hpp"
#include "trainer/passes/steering.hpp"

namespace bipo {

// Both functions score every setting of M vectors with the model loaded whole, compute a setting of
// zeros like any other, so that equal settings give equal numbers, and return the same on every
// rank and for any number of replicas.  They throw AgreedFailure (1) where a value is not finite.

struct SteeringSettings {
  std::vector<std::vector<double>> coefficients;  // [S][M]
  SteeredPositions positions = SteeredPositions::kAll;
  std::vector<bool> is_open = {};  // by item: whether its gate lets vectors act; empty: all do

  const SteeredPositions& positions_of(std::size_t item) const {
    return is_open.empty() || is_open.at(item) ? positions : SteeredPositions::kNone;
  }
};

struct AnswerScore {
  double log_prob = 0;      // nats, summed over the answer's scored tokens in order
  std::int64_t tokens = 0;  // scored ones
};

// By setting, item and answer.
using ContinuationScores = std::vector<std::vector<std::vector<AnswerScore>>>;

// Scores the answers of `items` given their prompts.  Collective over: dp x tp
ContinuationScores score_continuations(const ScoringContext& context,
                                       const std::vector<Continuations>& items,
                                       const SteeringVectors& vectors,
                                       const SteeringSettings& settings);

struct PromptTokens {
  std::vector<TokenId> ids;  // never empty
  std::string where;
};

struct PromptDivergence {
  double sum = 0;  // nats, over the positions
  std::int64_t positions = 0;
};

// Returns by setting and prompt: KL of the model's own next-token distribution from the steered
// one, summed over the positions.  Collective over: dp x tp
std::vector<std::vector<PromptDivergence>> prompt_divergences(
    const ScoringContext& context, const std::vector<PromptTokens>& prompts,
    const SteeringVectors& vectors, const SteeringSettings& settings);

// A prompt's gate is open where its projection on the vector is above the threshold.
struct Gate {
  PlacedVector vector;
  double threshold = 0;
};

// Returns for each prompt the component of its last token's row after block `gate.vector.layer`
// along the vector, (g.h)/|g|, without any steering: a pass of its own up to that block, wherever
// the steered ones are.  Throws BugError for a vector of zeros.  Collective over: dp x tp
std::vector<double> gate_projections(const ScoringContext& context,
                                     const std::vector<PromptTokens>& prompts, const Gate& gate);

// Returns whether each prompt's gate is open.  Collective over: dp x tp
std::vector<bool> open_gates(const ScoringContext& context,
                             const std::vector<PromptTokens>& prompts, const Gate& gate);

}  // namespace bipo
