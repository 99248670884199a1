#include "trainer/model/sharding/sharding.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <initializer_list>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

// The meaning of the rows or columns of a weight.
enum class Axis {
  kNone,
  kOne,
  kHidden,
  kHeadSize,
  kHeads,
  kQueries,  // of heads, with their gates if the attention has them
  kKvHeads,
  kIntermediate,
  kVocabulary,
  kDeltaKeys,
  kDeltaValues,
  kDeltaValueHeads,
  kDeltaValueSize,
  kTaps,
};

struct WeightAxes {
  Role role;
  Axis rows;
  Axis columns = Axis::kNone;
  bool is_norm = false;
};

// Weights whose products have local outputs are split by rows, those whose outputs are summed over
// the group by columns (arXiv 1909.08053, section 3).
constexpr std::array kWeights = {
    WeightAxes{Role::kEmbedding, Axis::kVocabulary, Axis::kHidden},
    WeightAxes{Role::kAttentionNorm, Axis::kHidden, Axis::kNone, true},
    WeightAxes{Role::kQuery, Axis::kQueries, Axis::kHidden},
    WeightAxes{Role::kKey, Axis::kKvHeads, Axis::kHidden},
    WeightAxes{Role::kValue, Axis::kKvHeads, Axis::kHidden},
    WeightAxes{Role::kQueryBias, Axis::kQueries},
    WeightAxes{Role::kKeyBias, Axis::kKvHeads},
    WeightAxes{Role::kValueBias, Axis::kKvHeads},
    WeightAxes{Role::kQueryNorm, Axis::kHeadSize, Axis::kNone, true},
    WeightAxes{Role::kKeyNorm, Axis::kHeadSize, Axis::kNone, true},
    WeightAxes{Role::kJointQueryNorm, Axis::kHeads, Axis::kNone, true},
    WeightAxes{Role::kJointKeyNorm, Axis::kKvHeads, Axis::kNone, true},
    WeightAxes{Role::kAttentionOutput, Axis::kHidden, Axis::kHeads},
    WeightAxes{Role::kAttentionOutputBias, Axis::kHidden},
    WeightAxes{Role::kAttentionOutputNorm, Axis::kHidden, Axis::kNone, true},
    WeightAxes{Role::kMlpNorm, Axis::kHidden, Axis::kNone, true},
    WeightAxes{Role::kGate, Axis::kIntermediate, Axis::kHidden},
    WeightAxes{Role::kUp, Axis::kIntermediate, Axis::kHidden},
    WeightAxes{Role::kDown, Axis::kHidden, Axis::kIntermediate},
    WeightAxes{Role::kMlpOutputNorm, Axis::kHidden, Axis::kNone, true},
    WeightAxes{Role::kBlockScale, Axis::kOne},
    WeightAxes{Role::kFinalNorm, Axis::kHidden, Axis::kNone, true},
    WeightAxes{Role::kHead, Axis::kVocabulary, Axis::kHidden},
    WeightAxes{Role::kDeltaQuery, Axis::kDeltaKeys, Axis::kHidden},
    WeightAxes{Role::kDeltaKey, Axis::kDeltaKeys, Axis::kHidden},
    WeightAxes{Role::kDeltaValue, Axis::kDeltaValues, Axis::kHidden},
    WeightAxes{Role::kDeltaGate, Axis::kDeltaValues, Axis::kHidden},
    WeightAxes{Role::kDeltaStep, Axis::kDeltaValueHeads, Axis::kHidden},
    WeightAxes{Role::kDeltaDecay, Axis::kDeltaValueHeads, Axis::kHidden},
    WeightAxes{Role::kDeltaQueryTaps, Axis::kDeltaKeys, Axis::kTaps},
    WeightAxes{Role::kDeltaKeyTaps, Axis::kDeltaKeys, Axis::kTaps},
    WeightAxes{Role::kDeltaValueTaps, Axis::kDeltaValues, Axis::kTaps},
    WeightAxes{Role::kDeltaDecayScale, Axis::kDeltaValueHeads},
    WeightAxes{Role::kDeltaDecayBias, Axis::kDeltaValueHeads},
    WeightAxes{Role::kDeltaNorm, Axis::kDeltaValueSize},  // files hold it whole
    WeightAxes{Role::kDeltaOutput, Axis::kHidden, Axis::kDeltaValues},
    WeightAxes{Role::kAttentionNormBias, Axis::kHidden},
    WeightAxes{Role::kMlpNormBias, Axis::kHidden},
    WeightAxes{Role::kUpBias, Axis::kIntermediate},
    WeightAxes{Role::kDownBias, Axis::kHidden},
    WeightAxes{Role::kFinalNormBias, Axis::kHidden},
    WeightAxes{Role::kHeadBias, Axis::kVocabulary},
};
static_assert(has_every_role(kWeights));

const WeightAxes& axes_of(Role role) {
  return kWeights.at(static_cast<std::size_t>(role));
}

Range scaled(Range range, std::int64_t factor) {
  return {range.begin * factor, range.end * factor};
}

Range part(const ModelConfig& config, const ShardPlan& plan, const AttentionKind& kind, Axis axis) {
  const std::int64_t head_size = head_size_of(config, kind);
  switch (axis) {
    case Axis::kNone:
      return {0, 0};
    case Axis::kOne:
      return {0, 1};
    case Axis::kHidden:
      return {0, config.hidden};
    case Axis::kHeadSize:
      return {0, head_size};
    case Axis::kHeads:
      return scaled(plan.heads, head_size);
    case Axis::kQueries:
      return scaled(plan.heads, head_size * (config.gated_attention ? 2 : 1));
    case Axis::kKvHeads:
      return scaled(kv_part(config, plan, kind), head_size);
    case Axis::kIntermediate:
      return plan.intermediate;
    case Axis::kVocabulary:
      return plan.vocabulary;
    case Axis::kDeltaKeys:
      return scaled(delta_key_part(*config.delta_net, plan), config.delta_net->key_size);
    case Axis::kDeltaValues:
      return scaled(plan.delta_values, config.delta_net->value_size);
    case Axis::kDeltaValueHeads:
      return plan.delta_values;
    case Axis::kDeltaValueSize:
      return {0, config.delta_net->value_size};
    case Axis::kTaps:
      return {0, config.delta_net->taps};
  }
  throw BugError("sharding: unknown axis");
}

}  // namespace

std::vector<Role> block_roles(const ModelConfig& config, std::int64_t block) {
  if (attention_of(config, block).is_recurrent) {
    return {Role::kAttentionNorm,
            Role::kDeltaQuery,
            Role::kDeltaKey,
            Role::kDeltaValue,
            Role::kDeltaGate,
            Role::kDeltaStep,
            Role::kDeltaDecay,
            Role::kDeltaQueryTaps,
            Role::kDeltaKeyTaps,
            Role::kDeltaValueTaps,
            Role::kDeltaDecayScale,
            Role::kDeltaDecayBias,
            Role::kDeltaNorm,
            Role::kDeltaOutput,
            Role::kMlpNorm,
            Role::kGate,
            Role::kUp,
            Role::kDown};
  }
  const bool has_values = !attention_of(config, block).values_are_keys;
  std::vector<Role> roles;
  const auto add_if = [&](bool present, std::initializer_list<Role> more) {
    if (present) {
      roles.insert(roles.end(), more);
    }
  };
  add_if(config.input_norms, {Role::kAttentionNorm});
  add_if(true, {Role::kQuery, Role::kKey});
  add_if(has_values, {Role::kValue});
  add_if(true, {Role::kAttentionOutput});
  const bool has_mlp_norm =
      config.input_norms && (!config.parallel_blocks || config.parallel_norms);
  add_if(has_mlp_norm, {Role::kMlpNorm});
  add_if(config.gated_mlp, {Role::kGate});
  add_if(true, {Role::kUp, Role::kDown});
  add_if(config.query_key_value_bias, {Role::kQueryBias, Role::kKeyBias});
  add_if(config.query_key_value_bias && has_values, {Role::kValueBias});
  add_if(config.query_key_norms == QueryKeyNorms::kByHead, {Role::kQueryNorm, Role::kKeyNorm});
  add_if(config.query_key_norms == QueryKeyNorms::kOfAllHeads,
         {Role::kJointQueryNorm, Role::kJointKeyNorm});
  add_if(config.attention_output_bias, {Role::kAttentionOutputBias});
  add_if(config.output_norms, {Role::kAttentionOutputNorm, Role::kMlpOutputNorm});
  add_if(config.block_scales, {Role::kBlockScale});
  add_if(config.input_norms && config.norm_biases, {Role::kAttentionNormBias});
  add_if(has_mlp_norm && config.norm_biases, {Role::kMlpNormBias});
  add_if(config.mlp_biases, {Role::kUpBias, Role::kDownBias});
  return roles;
}

std::vector<Role> outer_roles(const ModelConfig& config) {
  std::vector<Role> roles = {Role::kEmbedding, Role::kFinalNorm};
  if (!config.tied_head) {
    roles.push_back(Role::kHead);
  }
  if (config.norm_biases) {
    roles.push_back(Role::kFinalNormBias);
  }
  if (config.head_bias) {
    roles.push_back(Role::kHeadBias);
  }
  return roles;
}

bool is_norm(Role role) {
  return axes_of(role).is_norm;
}

bool is_product(Role role) {
  const Axis columns = axes_of(role).columns;
  return columns != Axis::kNone && columns != Axis::kTaps;
}

std::vector<WeightId> weights_of(const ModelConfig& config) {
  std::vector<WeightId> weights;
  for (const Role role : outer_roles(config)) {
    weights.push_back({role, 0});
  }
  for (std::int64_t block = 0; block < config.blocks; ++block) {
    for (const Role role : block_roles(config, block)) {
      weights.push_back({role, block});
    }
  }
  return weights;
}

Range split_range(std::int64_t count, std::int64_t parts, std::int64_t index) {
  const std::int64_t base = count / parts;
  const std::int64_t longer = count % parts;
  const std::int64_t begin = index * base + std::min(index, longer);
  return {begin, begin + base + (index < longer ? 1 : 0)};
}

ShardPlan plan_shard(const ModelConfig& config, std::int64_t tp, std::int64_t tp_rank) {
  if (tp > config.heads) {
    throw UserError(fmt::format(
        "--tp {}: the model has {} query heads, and a tensor-parallel rank needs at least one; "
        "use --tp 1 to {}",
        tp, config.heads, config.heads));
  }
  const std::int64_t value_heads = config.delta_net ? config.delta_net->value_heads : 0;
  if (config.delta_net && tp > value_heads) {
    throw UserError(fmt::format(
        "--tp {}: the model's recurrent blocks have {} value heads, and a tensor-parallel rank "
        "needs at least one; use --tp 1 to {}",
        tp, value_heads, value_heads));
  }
  ShardPlan plan;
  plan.delta_values = split_range(value_heads, tp, tp_rank);
  plan.heads = split_range(config.heads, tp, tp_rank);
  plan.intermediate = split_range(config.intermediate, tp, tp_rank);
  plan.vocabulary = split_range(config.vocabulary, tp, tp_rank);
  return plan;
}

Range kv_part(const ModelConfig& config, const ShardPlan& plan, const AttentionKind& kind) {
  const std::int64_t group = config.heads / kv_heads_of(config, kind);
  return {plan.heads.begin / group, (plan.heads.end - 1) / group + 1};
}

Range delta_key_part(const DeltaNetSizes& sizes, const ShardPlan& plan) {
  const std::int64_t group = sizes.value_heads / sizes.key_heads;
  return {plan.delta_values.begin / group, (plan.delta_values.end - 1) / group + 1};
}

TensorShape full_shape(const ModelConfig& config, Role role, std::int64_t block) {
  const ShardPlan whole{{0, config.heads},
                        {0, config.intermediate},
                        {0, config.vocabulary},
                        {0, config.delta_net ? config.delta_net->value_heads : 0}};
  const Slice slice = slice_of(config, whole, role, block);
  return {slice.rows.size(), slice.columns.size()};
}

Slice slice_of(const ModelConfig& config, const ShardPlan& plan, Role role, std::int64_t block) {
  const WeightAxes& axes = axes_of(role);
  const AttentionKind& kind = attention_of(config, block);
  return {part(config, plan, kind, axes.rows), part(config, plan, kind, axes.columns)};
}

BlockElements block_elements(const ModelConfig& config, const ShardPlan& plan, std::int64_t block) {
  BlockElements held;
  for (const Role role : block_roles(config, block)) {
    const Slice slice = slice_of(config, plan, role, block);
    if (is_product(role)) {
      held.matrices += slice.rows.size() * slice.columns.size();
    } else {
      held.vectors += slice.rows.size() * std::max<std::int64_t>(1, slice.columns.size());
    }
  }
  return held;
}

OuterElements outer_elements(const ModelConfig& config, const ShardPlan& plan) {
  const auto matrix = [&](Role role) {
    const Slice slice = slice_of(config, plan, role, 0);
    return slice.rows.size() * slice.columns.size();
  };
  std::int64_t vectors = 0;
  for (const Role role : outer_roles(config)) {
    vectors += is_product(role) ? 0 : slice_of(config, plan, role, 0).rows.size();
  }
  return {vectors, matrix(Role::kEmbedding), matrix(Role::kHead)};
}

}  // namespace bipo
