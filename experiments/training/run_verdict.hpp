// Whether a complete run shows an effect of its vector, in a sentence for people.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "datasets/tokens/token_pair.hpp"
#include "experiments/settings/settings.hpp"
#include "trainer/objective/objective.hpp"
#include "trainer/records/records.hpp"

namespace bipo {

// What the verdict on a run is measured by, and what its advice names.
struct VerdictSettings {
  std::vector<std::int64_t> layers;  // whose vectors are the parts of the run's, in their order
  // At each of them, see comparable_norms(); empty: vectors are not held against them.
  std::vector<double> residual_norms;
  Objective objective;
  // The lengths of the held-out pairs, where the objective takes means over them; else empty.
  std::vector<AnswerTokens> tokens;
  double lr = 0;
  LrUnit lr_unit = LrUnit::kAbsolute;
  std::int64_t epochs = 0;
  std::int64_t warmup_steps = 0;
  std::int64_t total_steps = 0;
};

// `options`: of the run, with every `auto` resolved.  `residual_norms`: see VerdictSettings.
VerdictSettings verdict_settings(const TrainOptions& options,
                                 const std::vector<TokenPair>& held_out,
                                 std::vector<double> residual_norms, std::int64_t total_steps);

// Returns the verdict on a complete run as its file stores it (RunAttributes).  It is weak where
// - the vector of a layer is shorter than 0.5 % of the residual stream's norm at that layer, where
//   they can be compared, or
// - pair by pair, the held-out margin at +m v is not above that at -m v: the bootstrap's 95 %
//   interval of the mean difference reaches 0 or less.
// m is 1 if the last evaluation has both signs of it, else the largest multiplier with both;
// without two pairs at such an m the margins are not tested.
std::string judge_run(const TrainingRecord& record, const VerdictSettings& settings);

}  // namespace bipo
