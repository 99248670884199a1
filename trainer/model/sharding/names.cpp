#include "trainer/model/sharding/names.hpp"

#include <fmt/format.h>

#include <initializer_list>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

const char* name_in_block(const ModelConfig& config, Role role) {
  switch (role) {
    case Role::kAttentionNorm:
      return "input_layernorm.weight";
    case Role::kQuery:
      return "self_attn.q_proj.weight";
    case Role::kKey:
      return "self_attn.k_proj.weight";
    case Role::kValue:
      return "self_attn.v_proj.weight";
    case Role::kQueryBias:
      return "self_attn.q_proj.bias";
    case Role::kKeyBias:
      return "self_attn.k_proj.bias";
    case Role::kValueBias:
      return "self_attn.v_proj.bias";
    case Role::kQueryNorm:
      return "self_attn.q_norm.weight";
    case Role::kKeyNorm:
      return "self_attn.k_norm.weight";
    case Role::kAttentionOutput:
      return "self_attn.o_proj.weight";
    case Role::kAttentionOutputBias:
      return "self_attn.o_proj.bias";
    case Role::kAttentionOutputNorm:
      return "post_attention_layernorm.weight";
    case Role::kMlpNorm:
      // Llama's name for what stands before the MLP names, where outputs are normed, what it says.
      return config.output_norms ? "pre_feedforward_layernorm.weight"
                                 : "post_attention_layernorm.weight";
    case Role::kGate:
      return "mlp.gate_proj.weight";
    case Role::kUp:
      return "mlp.up_proj.weight";
    case Role::kDown:
      return "mlp.down_proj.weight";
    case Role::kMlpOutputNorm:
      return "post_feedforward_layernorm.weight";
    case Role::kEmbedding:
    case Role::kFinalNorm:
    case Role::kHead:
      break;
  }
  throw BugError("names: role outside a block");
}

std::string tensor_name(const ModelConfig& config, Role role, std::int64_t block) {
  switch (role) {
    case Role::kEmbedding:
      return "model.embed_tokens.weight";
    case Role::kFinalNorm:
      return "model.norm.weight";
    case Role::kHead:
      return "lm_head.weight";
    default:
      return fmt::format("model.layers.{}.{}", block, name_in_block(config, role));
  }
}

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

TensorPlace tensor_place(const ModelConfig& config, Role role, std::int64_t block) {
  return place_in(config, role,
                  {tensor_name(config, role, block),
                   fmt::format("model.layers.{}.self_attn.qkv_proj.weight", block),
                   fmt::format("model.layers.{}.mlp.gate_up_proj.weight", block)});
}

}  // namespace bipo
