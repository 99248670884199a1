// Made-up weights of any shape, for measuring speed without a model's files.
#pragma once

#include <cstdint>
#include <memory>

#include "trainer/model/architecture/config.hpp"
#include "trainer/model/weights/weights.hpp"

namespace bipo {

// Makes normal weights of standard deviation 0.02 (the usual initial scale) in bfloat16; norms
// are 1. An element depends on (seed, role, block, row, column) only, so that every sharding reads
// the same model.  Rows are windows into one random buffer: reading costs a copy, whatever the
// model's size.
std::unique_ptr<WeightSource> make_synthetic_weights(const ModelConfig& config, std::uint64_t seed);

}  // namespace bipo
