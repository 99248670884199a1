// Every weight of a model, in a fixed order.
#pragma once

#include <cstdint>
#include <vector>

#include "trainer/model/architecture/config.hpp"
#include "trainer/model/sharding/sharding.hpp"

namespace bipo {

struct WeightId {
  Role role;
  std::int64_t block = 0;  // 0 for those outside the blocks
};

// Those that the model's files hold: a tied head is the embedding.
std::vector<WeightId> weights_of(const ModelConfig& config);

}  // namespace bipo
