#include "trainer/cost/rank_part.hpp"

#include <cmath>

namespace bipo {

bool BlockPart::allows_flash() const {
  constexpr double kLargestHead = 256;
  return !is_recurrent() && !capped && std::fmod(head_size, 8) == 0 && head_size <= kLargestHead &&
         std::fmod(heads, kv_heads) == 0;
}

// As PlannedKernels in tests/device counts them.
DeviceKernels BlockPart::device_kernels(bool narrow, bool flash) const {
  const double more = narrow ? 1 : 0;  // conversions
  if (is_recurrent()) {                // parts of sequences one behind the other: at most three
    return {14, 18 + 2 * more};
  }
  const bool by_flash = flash && allows_flash();
  DeviceKernels kernels = by_flash ? DeviceKernels{10, 22} : DeviceKernels{13, 15 + 2 * more};
  const auto add = [&](bool has, double forward, double backward) {
    kernels.forward += has ? forward : 0;
    kernels.backward += has ? backward : 0;
  };
  add(query_key_norms == QueryKeyNorms::kByHead && !by_flash, 1, 0);
  add(capped, 2, 4);
  add(scaled, 2, 2);
  add(output_norms, 2, 2);
  add(!input_norms, -2 + 2 * more, -2);  // where nothing else converts the products' inputs
  add(is_gated, 3 + more, 5 + more);
  return kernels;
}

RankPart largest_part(const ModelConfig& config, std::int64_t tp) {
  const auto raise = [](double& most, std::int64_t count) {
    most = std::max(most, static_cast<double>(count));
  };
  RankPart largest{};
  largest.hidden = static_cast<double>(config.hidden);
  largest.capped_head = config.logit_soft_cap != 0;
  largest.blocks.resize(static_cast<std::size_t>(config.blocks));
  for (std::int64_t rank = 0; rank < tp; ++rank) {
    const ShardPlan plan = plan_shard(config, tp, rank);
    for (std::int64_t i = 0; i < config.blocks; ++i) {
      const AttentionKind& kind = attention_of(config, i);
      const BlockElements held = block_elements(config, plan, i);
      BlockPart& block = largest.blocks[static_cast<std::size_t>(i)];
      block.kind = kind_of(config, i);
      block.hidden = largest.hidden;
      block.head_size = static_cast<double>(head_size_of(config, kind));
      block.values_are_keys = kind.values_are_keys;
      block.query_key_norms = config.query_key_norms;
      block.value_norms = config.value_norms;
      block.input_norms = config.input_norms;
      block.parallel = config.parallel_blocks;
      block.capped = config.attention_soft_cap != 0;
      block.scaled = config.residual_scale != 1;
      block.output_norms = config.output_norms;
      block.gated_mlp = config.gated_mlp;
      block.is_gated = config.gated_attention && !kind.is_recurrent;
      if (kind.is_recurrent) {
        const DeltaNetSizes& delta = config.delta_net.value();
        block.key_size = static_cast<double>(delta.key_size);
        block.value_size = static_cast<double>(delta.value_size);
        raise(block.delta_keys, delta_key_part(delta, plan).size() * delta.key_size);
        raise(block.delta_values, plan.delta_values.size() * delta.value_size);
      } else {
        raise(block.heads, plan.heads.size());
        raise(block.kv_heads, kv_part(config, plan, kind).size());
      }
      raise(block.intermediate, plan.intermediate.size());
      raise(block.matrices, held.matrices);
      raise(block.vectors, held.vectors);
    }
    const OuterElements held = outer_elements(config, plan);
    raise(largest.vectors, held.vectors);
    raise(largest.embedding, held.embedding);
    raise(largest.head, held.head);
  }
  return largest;
}

}  // namespace bipo
