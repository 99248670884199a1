// Evaluates held-out pairs during training, under the vector at several multipliers.
#pragma once

#include <cstdint>
#include <vector>

#include "trainer/cache/activation_cache.hpp"
#include "trainer/intervention/layers.hpp"
#include "trainer/intervention/positions.hpp"
#include "trainer/objective/objective.hpp"
#include "trainer/records/records.hpp"

namespace bipo {

struct HeldOutEvaluation {
  std::vector<EvalRow> rows;           // one for each multiplier
  std::vector<EvalSampleRow> samples;  // one for each multiplier and pair
};

// Scores every pair of `held_out`, which has its reference, at each multiplier m (h + m v after
// each of S `layers` with its part of `vector` [S D], at `positions`).  Loss and margin are the
// objective's in direction +1; a pair counts as right where the chosen answer is ahead by the
// objective's reduction.  Leaves `step` and `epoch` at 0; returns the same on every rank and for
// any number of replicas. Collective over: dp x tp
HeldOutEvaluation evaluate_pairs(const ScoringContext& context, const ActivationCache& held_out,
                                 const SteeredLayers& layers, const std::vector<float>& vector,
                                 const std::vector<double>& multipliers, const Objective& objective,
                                 const SteeredPositions& positions = {});

}  // namespace bipo
