// Held-out pairs under the vector at several multipliers.
#pragma once

#include <cstdint>
#include <vector>

#include "collectives/session.hpp"
#include "trainer/cache/activation_cache.hpp"
#include "trainer/records/records.hpp"

namespace bipo {

// Scores every pair of `cache` at each multiplier m (h + m v after `layer`); one row per
// multiplier, with `step` and `epoch` left at 0.  Groups are dealt to replicas; the rows are the
// same on every rank and for any number of replicas. Collective over: dp x tp
std::vector<EvalRow> evaluate_pairs(const Decoder& decoder, const ActivationCache& cache,
                                    std::int64_t layer, const std::vector<float>& vector,
                                    const std::vector<double>& multipliers, double beta,
                                    const Ranks& ranks);

}  // namespace bipo
