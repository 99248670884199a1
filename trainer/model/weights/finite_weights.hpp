// Looks through a model's weights for numbers that are no numbers.
#pragma once

#include <cstdint>
#include <vector>

#include "trainer/model/architecture/config.hpp"
#include "trainer/model/weights/weights.hpp"

namespace bipo {

// How many numbers of each weight, in the order of weights_of(), are NaN or infinite, among the
// part `part` of `parts` of its rows: parts share the work, their counts add up.  Reads everything
// once, in pieces of bounded size.
std::vector<std::int64_t> count_non_finite(const WeightSource& weights, const ModelConfig& config,
                                           std::int64_t parts, std::int64_t part);

// Throws UserError, naming file, tensor and count of each one, unless all `counts` are 0.
void require_finite(const WeightSource& weights, const ModelConfig& config,
                    const std::vector<std::int64_t>& counts);

}  // namespace bipo
