#include "trainer/model/sharding/sharding.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

// What one row or column block of a tensor belongs to.
enum class Unit { kWhole, kHeads, kKvHeads, kIntermediate, kVocabulary };

struct Layout {
  Unit rows;
  Unit columns;
};

// Products whose outputs are local split their rows, those whose outputs are summed over the group
// their columns (arXiv 1909.08053, section 3).
Layout layout_of(Role role) {
  switch (role) {
    case Role::kEmbedding:
    case Role::kHead:
      return {Unit::kVocabulary, Unit::kWhole};
    case Role::kQuery:
    case Role::kQueryBias:
      return {Unit::kHeads, Unit::kWhole};
    case Role::kKey:
    case Role::kValue:
    case Role::kKeyBias:
    case Role::kValueBias:
      return {Unit::kKvHeads, Unit::kWhole};
    case Role::kAttentionOutput:
      return {Unit::kWhole, Unit::kHeads};
    case Role::kGate:
    case Role::kUp:
      return {Unit::kIntermediate, Unit::kWhole};
    case Role::kDown:
      return {Unit::kWhole, Unit::kIntermediate};
    case Role::kAttentionNorm:
    case Role::kQueryNorm:
    case Role::kKeyNorm:
    case Role::kAttentionOutputBias:
    case Role::kAttentionOutputNorm:
    case Role::kMlpNorm:
    case Role::kMlpOutputNorm:
    case Role::kFinalNorm:
      return {Unit::kWhole, Unit::kWhole};
  }
  throw BugError("sharding: unknown role");
}

Range scaled(Range range, std::int64_t factor) {
  return {range.begin * factor, range.end * factor};
}

Range part(const ModelConfig& config, const ShardPlan& plan, Unit unit, std::int64_t whole) {
  switch (unit) {
    case Unit::kWhole:
      return {0, whole};
    case Unit::kHeads:
      return scaled(plan.heads, config.head_size);
    case Unit::kKvHeads:
      return scaled(plan.kv_heads, config.head_size);
    case Unit::kIntermediate:
      return plan.intermediate;
    case Unit::kVocabulary:
      return plan.vocabulary;
  }
  throw BugError("sharding: unknown unit");
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
  switch (role) {
    case Role::kAttentionNorm:
    case Role::kQueryNorm:
    case Role::kKeyNorm:
    case Role::kAttentionOutputNorm:
    case Role::kMlpNorm:
    case Role::kMlpOutputNorm:
    case Role::kFinalNorm:
      return true;
    default:
      return false;
  }
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
  switch (role) {
    case Role::kEmbedding:
    case Role::kHead:
      return {config.vocabulary, config.hidden};
    case Role::kQuery:
      return {config.heads * config.head_size, config.hidden};
    case Role::kKey:
    case Role::kValue:
      return {config.kv_heads * config.head_size, config.hidden};
    case Role::kAttentionOutput:
      return {config.hidden, config.heads * config.head_size};
    case Role::kGate:
    case Role::kUp:
      return {config.intermediate, config.hidden};
    case Role::kDown:
      return {config.hidden, config.intermediate};
    case Role::kQueryBias:
      return {config.heads * config.head_size, 0};
    case Role::kKeyBias:
    case Role::kValueBias:
      return {config.kv_heads * config.head_size, 0};
    case Role::kQueryNorm:
    case Role::kKeyNorm:
      return {config.head_size, 0};
    case Role::kAttentionNorm:
    case Role::kAttentionOutputBias:
    case Role::kAttentionOutputNorm:
    case Role::kMlpNorm:
    case Role::kMlpOutputNorm:
    case Role::kFinalNorm:
      return {config.hidden, 0};
  }
  throw BugError("sharding: unknown role");
}

Slice slice_of(const ModelConfig& config, const ShardPlan& plan, Role role) {
  const TensorShape whole = full_shape(config, role);
  const Layout layout = layout_of(role);
  return {part(config, plan, layout.rows, whole.rows),
          part(config, plan, layout.columns, whole.columns)};
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
