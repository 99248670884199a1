#include "trainer/model/sharding/weight_list.hpp"

namespace bipo {

std::vector<WeightId> weights_of(const ModelConfig& config) {
  std::vector<WeightId> weights;
  for (const Role role : outer_roles(config)) {
    weights.push_back({role, 0});
  }
  for (std::int64_t block = 0; block < config.blocks; ++block) {
    for (const Role role : block_roles(config)) {
      weights.push_back({role, block});
    }
  }
  return weights;
}

}  // namespace bipo
