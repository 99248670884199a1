#include "trainer/model/sharding/names.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <span>
#include <string_view>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/architecture/wrappers.hpp"

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
    {Role::kJointQueryNorm, "model.layers.{}.self_attn.q_norm.weight"},
    {Role::kJointKeyNorm, "model.layers.{}.self_attn.k_norm.weight"},
    {Role::kAttentionOutput, "model.layers.{}.self_attn.o_proj.weight"},
    {Role::kAttentionOutputBias, "model.layers.{}.self_attn.o_proj.bias"},
    {Role::kAttentionOutputNorm, "model.layers.{}.post_attention_layernorm.weight"},
    {Role::kMlpNorm, "model.layers.{}.pre_feedforward_layernorm.weight"},
    {Role::kGate, "model.layers.{}.mlp.gate_proj.weight"},
    {Role::kUp, "model.layers.{}.mlp.up_proj.weight"},
    {Role::kDown, "model.layers.{}.mlp.down_proj.weight"},
    {Role::kMlpOutputNorm, "model.layers.{}.post_feedforward_layernorm.weight"},
    {Role::kBlockScale, "model.layers.{}.layer_scalar"},
    {Role::kFinalNorm, "model.norm.weight"},
    {Role::kHead, "lm_head.weight"},
    {Role::kDeltaQuery, "model.layers.{}.linear_attn.in_proj_qkv.weight"},
    {Role::kDeltaKey, "model.layers.{}.linear_attn.in_proj_qkv.weight"},
    {Role::kDeltaValue, "model.layers.{}.linear_attn.in_proj_qkv.weight"},
    {Role::kDeltaGate, "model.layers.{}.linear_attn.in_proj_z.weight"},
    {Role::kDeltaStep, "model.layers.{}.linear_attn.in_proj_b.weight"},
    {Role::kDeltaDecay, "model.layers.{}.linear_attn.in_proj_a.weight"},
    {Role::kDeltaQueryTaps, "model.layers.{}.linear_attn.conv1d.weight"},
    {Role::kDeltaKeyTaps, "model.layers.{}.linear_attn.conv1d.weight"},
    {Role::kDeltaValueTaps, "model.layers.{}.linear_attn.conv1d.weight"},
    {Role::kDeltaDecayScale, "model.layers.{}.linear_attn.A_log"},
    {Role::kDeltaDecayBias, "model.layers.{}.linear_attn.dt_bias"},
    {Role::kDeltaNorm, "model.layers.{}.linear_attn.norm.weight"},
    {Role::kDeltaOutput, "model.layers.{}.linear_attn.out_proj.weight"},
    {Role::kAttentionNormBias, "model.layers.{}.input_layernorm.bias"},
    {Role::kMlpNormBias, "model.layers.{}.post_attention_layernorm.bias"},
    {Role::kUpBias, "model.layers.{}.mlp.up_proj.bias"},
    {Role::kDownBias, "model.layers.{}.mlp.down_proj.bias"},
    {Role::kFinalNormBias, "model.norm.bias"},
    {Role::kHeadBias, "lm_head.bias"},
}};
static_assert(has_every_role(kNames));

// Roles that share a tensor in every file, row after row.
constexpr std::array<std::array<Role, 3>, 2> kAlwaysFused = {
    {{Role::kDeltaQuery, Role::kDeltaKey, Role::kDeltaValue},
     {Role::kDeltaQueryTaps, Role::kDeltaKeyTaps, Role::kDeltaValueTaps}}};

TensorPlace fused_place(const ModelConfig& config, const std::string& name, Role role,
                        std::int64_t block, std::span<const Role> parts) {
  TensorPlace place{name, 0, {0, full_shape(config, role, block).columns}};
  for (const Role part : parts) {
    if (part == role) {
      place.first_row = place.shape.rows;
    }
    place.shape.rows += full_shape(config, part, block).rows;
  }
  return place;
}

// Returns `names` with others for some roles.
RoleNames with_others(RoleNames names, std::initializer_list<RoleName> others) {
  for (const RoleName& other : others) {
    names[static_cast<std::size_t>(other.role)] = other;
  }
  return names;
}

// Names of the same form for different norms, see NormNames.
const RoleNames& names_with_norms(NormNames norms) {
  static const auto with = [](const char* before_mlp, const char* of_attention,
                              const char* of_mlp) {
    return with_others(kNames, {{Role::kMlpNorm, before_mlp},
                                {Role::kAttentionOutputNorm, of_attention},
                                {Role::kMlpOutputNorm, of_mlp}});
  };
  static const RoleNames llama = with("model.layers.{}.post_attention_layernorm.weight",
                                      "model.layers.{}.attention_output_norm.weight",
                                      "model.layers.{}.mlp_output_norm.weight");
  static const RoleNames glm = with("model.layers.{}.post_attention_layernorm.weight",
                                    "model.layers.{}.post_self_attn_layernorm.weight",
                                    "model.layers.{}.post_mlp_layernorm.weight");
  return norms == NormNames::kLlama ? llama : norms == NormNames::kGlm ? glm : kNames;
}

// Names of a class of its own, see Naming.
const RoleNames& names_of(const ModelConfig& config) {
  const RoleNames& llama = names_with_norms(config.norm_names);
  static const RoleNames gpt_neox =
      with_others(names_with_norms(NormNames::kLlama),
                  {{Role::kEmbedding, "model.embed_in.weight"},
                   {Role::kAttentionOutput, "model.layers.{}.attention.dense.weight"},
                   {Role::kAttentionOutputBias, "model.layers.{}.attention.dense.bias"},
                   {Role::kUp, "model.layers.{}.mlp.dense_h_to_4h.weight"},
                   {Role::kUpBias, "model.layers.{}.mlp.dense_h_to_4h.bias"},
                   {Role::kDown, "model.layers.{}.mlp.dense_4h_to_h.weight"},
                   {Role::kDownBias, "model.layers.{}.mlp.dense_4h_to_h.bias"},
                   {Role::kFinalNorm, "model.final_layer_norm.weight"},
                   {Role::kFinalNormBias, "model.final_layer_norm.bias"}});
  static const RoleNames phi =
      with_others(names_with_norms(NormNames::kLlama),
                  {{Role::kAttentionOutput, "model.layers.{}.self_attn.dense.weight"},
                   {Role::kAttentionOutputBias, "model.layers.{}.self_attn.dense.bias"},
                   {Role::kUp, "model.layers.{}.mlp.fc1.weight"},
                   {Role::kUpBias, "model.layers.{}.mlp.fc1.bias"},
                   {Role::kDown, "model.layers.{}.mlp.fc2.weight"},
                   {Role::kDownBias, "model.layers.{}.mlp.fc2.bias"},
                   {Role::kFinalNorm, "model.final_layernorm.weight"},
                   {Role::kFinalNormBias, "model.final_layernorm.bias"}});
  static const RoleNames starcoder_2 = with_others(
      names_with_norms(NormNames::kLlama), {{Role::kUp, "model.layers.{}.mlp.c_fc.weight"},
                                            {Role::kUpBias, "model.layers.{}.mlp.c_fc.bias"},
                                            {Role::kDown, "model.layers.{}.mlp.c_proj.weight"},
                                            {Role::kDownBias, "model.layers.{}.mlp.c_proj.bias"}});
  switch (config.naming) {
    case Naming::kLlama:
      return llama;
    case Naming::kGptNeoX:
      return gpt_neox;
    case Naming::kPhi:
      return phi;
    case Naming::kStarCoder2:
      return starcoder_2;
  }
  throw BugError("names: unknown naming");
}

constexpr std::array kProjections = {Role::kQuery, Role::kKey, Role::kValue};
constexpr std::array kProjectionBiases = {Role::kQueryBias, Role::kKeyBias, Role::kValueBias};

// Returns the place of a role whose rows are, head by head, behind those of the roles before it.
TensorPlace place_by_head(const ModelConfig& config, TensorPlace place, Role role,
                          std::int64_t block, std::span<const Role> parts) {
  const auto found = std::find(parts.begin(), parts.end(), role);
  if (found == parts.end()) {
    return place;
  }
  place.together = head_size_of(config, attention_of(config, block));
  place.stride = place.together * static_cast<std::int64_t>(parts.size());
  place.first_row = place.together * (found - parts.begin());
  return place;
}

}  // namespace

TensorPlace place_in(const ModelConfig& config, Role role, std::int64_t block,
                     const TensorNames& names) {
  for (const auto& parts : kAlwaysFused) {
    if (std::find(parts.begin(), parts.end(), role) != parts.end()) {
      return fused_place(config, names.own, role, block, parts);
    }
  }
  const auto is_among = [&](const auto& roles) {
    return std::find(roles.begin(), roles.end(), role) != roles.end();
  };
  if (config.fused_query_key_value && is_among(kProjections)) {
    return fused_place(config, names.query_key_value, role, block, kProjections);
  }
  if (config.fused_query_key_value && is_among(kProjectionBiases)) {
    return fused_place(config, names.query_key_value_bias, role, block, kProjectionBiases);
  }
  if (config.fused_gate_up && (role == Role::kGate || role == Role::kUp)) {
    return fused_place(config, names.gate_up, role, block, std::array{Role::kGate, Role::kUp});
  }
  return {names.own, 0, full_shape(config, role, block)};
}

std::string name_of(const RoleNames& names, Role role, std::int64_t block) {
  return fmt::format(fmt::runtime(names.at(static_cast<std::size_t>(role)).name), block);
}

TensorPlace tensor_place(const ModelConfig& config, Role role, std::int64_t block) {
  const bool shared = config.mlp_names == MlpNames::kSharedMlp;
  const std::string fused = fmt::format(
      "model.layers.{}.{}", block,
      config.naming == Naming::kGptNeoX ? "attention.query_key_value" : "self_attn.qkv_proj");
  const TensorPlace place =
      place_in(config, role, block,
               {shared && role == Role::kDown
                    ? fmt::format("model.layers.{}.shared_mlp.output_linear.weight", block)
                    : name_of(names_of(config), role, block),
                fused + ".weight", fused + ".bias",
                fmt::format("model.layers.{}.{}.weight", block,
                            shared ? "shared_mlp.input_linear" : "mlp.gate_up_proj")});
  return config.fused_by_head
             ? place_by_head(config, place_by_head(config, place, role, block, kProjections), role,
                             block, kProjectionBiases)
             : place;
}

ClassNames class_names(const ModelConfig& config) {
  if (config.wrapper != nullptr) {
    return {std::string(config.wrapper->text_module)};
  }
  if (config.naming == Naming::kGptNeoX) {
    return {"gpt_neox.", {"lm_head.weight", "embed_out.weight"}};
  }
  return {};
}

std::vector<Range> TensorPlace::rows_in_tensor(Range rows) const {
  if (together == 0) {
    return {{first_row + rows.begin, first_row + rows.end}};
  }
  std::vector<Range> parts;
  for (std::int64_t row = rows.begin; row < rows.end;) {
    const std::int64_t in_part = row % together;
    const std::int64_t begin = first_row + row / together * stride + in_part;
    const std::int64_t count = std::min(together - in_part, rows.end - row);
    parts.push_back({begin, begin + count});
    row += count;
  }
  return parts;
}

TensorPlace parameter_place(const ModelConfig& config, Role role, std::int64_t block) {
  constexpr std::string_view kModel = "model.";
  TensorPlace place = tensor_place(config, role, block);
  if (place.name.starts_with(kModel)) {
    place.name = class_names(config).decoder + place.name.substr(kModel.size());
  }
  return place;
}

}  // namespace bipo
