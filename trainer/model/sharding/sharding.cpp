#include "trainer/model/sharding/sharding.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <initializer_list>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

// The meaning of the rows or columns of a weight.
enum class Axis { kNone, kHidden, kHeadSize, kHeads, kKvHeads, kIntermediate, kVocabulary };

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
    WeightAxes{Role::kQuery, Axis::kHeads, Axis::kHidden},
    WeightAxes{Role::kKey, Axis::kKvHeads, Axis::kHidden},
    WeightAxes{Role::kValue, Axis::kKvHeads, Axis::kHidden},
    WeightAxes{Role::kQueryBias, Axis::kHeads},
    WeightAxes{Role::kKeyBias, Axis::kKvHeads},
    WeightAxes{Role::kValueBias, Axis::kKvHeads},
    WeightAxes{Role::kQueryNorm, Axis::kHeadSize, Axis::kNone, true},
    WeightAxes{Role::kKeyNorm, Axis::kHeadSize, Axis::kNone, true},
    WeightAxes{Role::kAttentionOutput, Axis::kHidden, Axis::kHeads},
    WeightAxes{Role::kAttentionOutputBias, Axis::kHidden},
    WeightAxes{Role::kAttentionOutputNorm, Axis::kHidden, Axis::kNone, true},
    WeightAxes{Role::kMlpNorm, Axis::kHidden, Axis::kNone, true},
    WeightAxes{Role::kGate, Axis::kIntermediate, Axis::kHidden},
    WeightAxes{Role::kUp, Axis::kIntermediate, Axis::kHidden},
    WeightAxes{Role::kDown, Axis::kHidden, Axis::kIntermediate},
    WeightAxes{Role::kMlpOutputNorm, Axis::kHidden, Axis::kNone, true},
    WeightAxes{Role::kFinalNorm, Axis::kHidden, Axis::kNone, true},
    WeightAxes{Role::kHead, Axis::kVocabulary, Axis::kHidden},
};
static_assert(has_every_role(kWeights));

const WeightAxes& axes_of(Role role) {
  return kWeights.at(static_cast<std::size_t>(role));
}

Range scaled(Range range, std::int64_t factor) {
  return {range.begin * factor, range.end * factor};
}

Range part(const ModelConfig& config, const ShardPlan& plan, Axis axis) {
  switch (axis) {
    case Axis::kNone:
      return {0, 0};
    case Axis::kHidden:
      return {0, config.hidden};
    case Axis::kHeadSize:
      return {0, config.head_size};
    case Axis::kHeads:
      return scaled(plan.heads, config.head_size);
    case Axis::kKvHeads:
      return scaled(plan.kv_heads, config.head_size);
    case Axis::kIntermediate:
      return plan.intermediate;
    case Axis::kVocabulary:
      return plan.vocabulary;
  }
  throw BugError("sharding: unknown axis");
}

}  // namespace

std::vector<Role> block_roles(const ModelConfig& config) {
  std::vector<Role> roles = {
      Role::kAttentionNorm, Role::kQuery, Role::kKey, Role::kValue, Role::kAttentionOutput,
      Role::kMlpNorm,       Role::kGate,  Role::kUp,  Role::kDown};
  const auto add_if = [&](bool present, std::initializer_list<Role> more) {
    if (present) {
      roles.insert(roles.end(), more);
    }
  };
  add_if(config.query_key_value_bias, {Role::kQueryBias, Role::kKeyBias, Role::kValueBias});
  add_if(config.query_key_norms, {Role::kQueryNorm, Role::kKeyNorm});
  add_if(config.attention_output_bias, {Role::kAttentionOutputBias});
  add_if(config.output_norms, {Role::kAttentionOutputNorm, Role::kMlpOutputNorm});
  return roles;
}

std::vector<Role> outer_roles(const ModelConfig& config) {
  std::vector<Role> roles = {Role::kEmbedding, Role::kFinalNorm};
  if (!config.tied_head) {
    roles.push_back(Role::kHead);
  }
  return roles;
}

bool is_norm(Role role) {
  return axes_of(role).is_norm;
}

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
  ShardPlan plan;
  plan.heads = split_range(config.heads, tp, tp_rank);
  const std::int64_t group = config.heads / config.kv_heads;
  plan.kv_heads = {plan.heads.begin / group, (plan.heads.end - 1) / group + 1};
  plan.intermediate = split_range(config.intermediate, tp, tp_rank);
  plan.vocabulary = split_range(config.vocabulary, tp, tp_rank);
  return plan;
}

TensorShape full_shape(const ModelConfig& config, Role role) {
  const ShardPlan whole{
      {0, config.heads}, {0, config.kv_heads}, {0, config.intermediate}, {0, config.vocabulary}};
  const Slice slice = slice_of(config, whole, role);
  return {slice.rows.size(), slice.columns.size()};
}

Slice slice_of(const ModelConfig& config, const ShardPlan& plan, Role role) {
  const WeightAxes& axes = axes_of(role);
  return {part(config, plan, axes.rows), part(config, plan, axes.columns)};
}

HeldElements held_elements(const ModelConfig& config, const ShardPlan& plan) {
  const auto vector = [&](Role role) { return slice_of(config, plan, role).rows.size(); };
  const auto matrix = [&](Role role) {
    const Slice slice = slice_of(config, plan, role);
    return slice.rows.size() * slice.columns.size();
  };
  HeldElements held;
  for (const Role role : block_roles(config)) {
    if (full_shape(config, role).is_vector()) {
      held.block_vectors += vector(role);
    } else {
      held.block_matrices += matrix(role);
    }
  }
  held.final_norm = vector(Role::kFinalNorm);
  held.embedding = matrix(Role::kEmbedding);
  held.head = matrix(Role::kHead);
  return held;
}

}  // namespace bipo
