#include "trainer/model/sharding/names.hpp"

#include <fmt/format.h>

#include <initializer_list>

namespace bipo {
namespace {

constexpr RoleNames kNames = {{
    {Role::kEmbedding, "model.embed_tokens.weight"},
    {Role::kAttentionNorm, "model.layers.{}.input_layernorm.weight"},
    {Role::kQuery, "model.layers.{}.self_attn.q_proj.weight"},
    {Role::kKey, "model.layers.{}.self_attn.k_proj.weight"},
    {Role::kValue, "model.layers.{}.self_attn.v_proj.weight"},
    {Role::kQueryBias, "model.layers.{}.self_attn.q_proj.bias"},
    {Role::kKeyBias, "model.layers.{}.self_attn.k_proj.bias"},
    {Role::kValueBias, "model.layers.{}.self_attn.v_proj.bias"},
    {Role::kQueryNorm, "model.layers.{}.self_attn.q_norm.weight"},
    {Role::kKeyNorm, "model.layers.{}.self_attn.k_norm.weight"},
    {Role::kAttentionOutput, "model.layers.{}.self_attn.o_proj.weight"},
    {Role::kAttentionOutputBias, "model.layers.{}.self_attn.o_proj.bias"},
    {Role::kAttentionOutputNorm, "model.layers.{}.post_attention_layernorm.weight"},
    {Role::kMlpNorm, "model.layers.{}.pre_feedforward_layernorm.weight"},
    {Role::kGate, "model.layers.{}.mlp.gate_proj.weight"},
    {Role::kUp, "model.layers.{}.mlp.up_proj.weight"},
    {Role::kDown, "model.layers.{}.mlp.down_proj.weight"},
    {Role::kMlpOutputNorm, "model.layers.{}.post_feedforward_layernorm.weight"},
    {Role::kFinalNorm, "model.norm.weight"},
    {Role::kHead, "lm_head.weight"},
}};
static_assert(has_every_role(kNames));

TensorPlace fused_place(const ModelConfig& config, const std::string& name, Role role,
                        std::initializer_list<Role> parts) {
  TensorPlace place{name, 0, {0, config.hidden}};
  for (const Role part : parts) {
    if (part == role) {
      place.first_row = place.shape.rows;
    }
    place.shape.rows += full_shape(config, part).rows;
  }
  return place;
}

}  // namespace

TensorPlace place_in(const ModelConfig& config, Role role, const TensorNames& names) {
  if (config.fused_projections) {
    if (role == Role::kQuery || role == Role::kKey || role == Role::kValue) {
      return fused_place(config, names.query_key_value, role,
                         {Role::kQuery, Role::kKey, Role::kValue});
    }
    if (role == Role::kGate || role == Role::kUp) {
      return fused_place(config, names.gate_up, role, {Role::kGate, Role::kUp});
    }
  }
  return {names.own, 0, full_shape(config, role)};
}

std::string name_of(const RoleNames& names, Role role, std::int64_t block) {
  return fmt::format(fmt::runtime(names.at(static_cast<std::size_t>(role)).name), block);
}

TensorPlace tensor_place(const ModelConfig& config, Role role, std::int64_t block) {
  // Families without norms of outputs call the norm before the MLP "post_attention".
  const Role named =
      role == Role::kMlpNorm && !config.output_norms ? Role::kAttentionOutputNorm : role;
  return place_in(config, role,
                  {name_of(kNames, named, block),
                   fmt::format("model.layers.{}.self_attn.qkv_proj.weight", block),
                   fmt::format("model.layers.{}.mlp.gate_up_proj.weight", block)});
}

}  // namespace bipo
