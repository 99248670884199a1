#include "trainer/model/gguf/gguf_architectures.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

constexpr std::array kArchitectures = {
    GgufArchitecture{"llama", "LlamaForCausalLM", true},
    GgufArchitecture{"qwen2", "Qwen2ForCausalLM", false},
    GgufArchitecture{"qwen3", "Qwen3ForCausalLM", false},
    GgufArchitecture{"gemma", "GemmaForCausalLM", false},
    GgufArchitecture{"gemma2", "Gemma2ForCausalLM", false},
    GgufArchitecture{"gemma3", "Gemma3ForCausalLM", false},
    GgufArchitecture{"gemma4", "Gemma4ForCausalLM", false},
    GgufArchitecture{"command-r", "CohereForCausalLM", false},
    GgufArchitecture{"cohere2", "Cohere2ForCausalLM", false},
    GgufArchitecture{"seed_oss", "SeedOssForCausalLM", false, true},
    GgufArchitecture{"olmo2", "Olmo2ForCausalLM", false},
    GgufArchitecture{"exaone4", "Exaone4ForCausalLM", false},
    GgufArchitecture{"granite", "GraniteForCausalLM", true},
    GgufArchitecture{"glm4", "Glm4ForCausalLM", false},
    GgufArchitecture{"ernie4_5", "Ernie4_5ForCausalLM", false},
    GgufArchitecture{"smollm3", "SmolLM3ForCausalLM", true},
    GgufArchitecture{"phi3", "Phi3ForCausalLM", false},
    GgufArchitecture{"gptneox", "GPTNeoXForCausalLM", false},
    GgufArchitecture{"phi2", "PhiForCausalLM", false},
    GgufArchitecture{"starcoder2", "Starcoder2ForCausalLM", false},
    GgufArchitecture{"qwen35", "Qwen3_5ForCausalLM", false, true},
};

constexpr RoleNames kNames = {{
    {Role::kEmbedding, kGgufEmbedding},
    {Role::kAttentionNorm, "blk.{}.attn_norm.weight"},
    {Role::kQuery, "blk.{}.attn_q.weight"},
    {Role::kKey, "blk.{}.attn_k.weight"},
    {Role::kValue, "blk.{}.attn_v.weight"},
    {Role::kQueryBias, "blk.{}.attn_q.bias"},
    {Role::kKeyBias, "blk.{}.attn_k.bias"},
    {Role::kValueBias, "blk.{}.attn_v.bias"},
    {Role::kQueryNorm, "blk.{}.attn_q_norm.weight"},
    {Role::kKeyNorm, "blk.{}.attn_k_norm.weight"},
    {Role::kJointQueryNorm, "blk.{}.attn_q_norm.weight"},
    {Role::kJointKeyNorm, "blk.{}.attn_k_norm.weight"},
    {Role::kAttentionOutput, "blk.{}.attn_output.weight"},
    {Role::kAttentionOutputBias, "blk.{}.attn_output.bias"},
    {Role::kAttentionOutputNorm, "blk.{}.post_attention_norm.weight"},
    {Role::kMlpNorm, "blk.{}.ffn_norm.weight"},
    {Role::kGate, "blk.{}.ffn_gate.weight"},
    {Role::kUp, "blk.{}.ffn_up.weight"},
    {Role::kDown, "blk.{}.ffn_down.weight"},
    {Role::kMlpOutputNorm, "blk.{}.post_ffw_norm.weight"},
    {Role::kBlockScale, "blk.{}.layer_output_scale.weight"},
    {Role::kFinalNorm, "output_norm.weight"},
    {Role::kHead, kGgufHead},
    {Role::kDeltaQuery, "blk.{}.attn_qkv.weight"},
    {Role::kDeltaKey, "blk.{}.attn_qkv.weight"},
    {Role::kDeltaValue, "blk.{}.attn_qkv.weight"},
    {Role::kDeltaGate, "blk.{}.attn_gate.weight"},
    {Role::kDeltaStep, "blk.{}.ssm_beta.weight"},
    {Role::kDeltaDecay, "blk.{}.ssm_alpha.weight"},
    {Role::kDeltaQueryTaps, "blk.{}.ssm_conv1d.weight"},
    {Role::kDeltaKeyTaps, "blk.{}.ssm_conv1d.weight"},
    {Role::kDeltaValueTaps, "blk.{}.ssm_conv1d.weight"},
    {Role::kDeltaDecayScale, "blk.{}.ssm_a"},
    {Role::kDeltaDecayBias, "blk.{}.ssm_dt.bias"},
    {Role::kDeltaNorm, "blk.{}.ssm_norm.weight"},
    {Role::kDeltaOutput, "blk.{}.ssm_out.weight"},
    {Role::kAttentionNormBias, "blk.{}.attn_norm.bias"},
    {Role::kMlpNormBias, "blk.{}.ffn_norm.bias"},
    {Role::kUpBias, "blk.{}.ffn_up.bias"},
    {Role::kDownBias, "blk.{}.ffn_down.bias"},
    {Role::kFinalNormBias, "output_norm.bias"},
    {Role::kHeadBias, "output.bias"},
}};
static_assert(has_every_role(kNames));

// Returns what a file that holds no model is; nothing for a model.
std::string kind_of_other_file(const std::string& type, const std::string& architecture) {
  if (type == "adapter") {
    return "is an adapter, not a model; --model takes its base model, --adapter this file";
  }
  if (type == "mmproj" || architecture == "clip") {
    return "is the image or sound encoder of a model (mmproj); take the GGUF file of its language "
           "model";
  }
  if (architecture == "controlvector") {
    return "is a control vector, not a model; bipo-dist import reads it";
  }
  return type.empty() || type == "model" ? "" : "does not hold a model";
}

bool calls_mlp_norm_post_attention(const ModelConfig& config) {
  return std::any_of(
      kArchitectures.begin(), kArchitectures.end(), [&](const GgufArchitecture& known) {
        return config.architecture == known.family && known.mlp_norm_is_post_attention;
      });
}

// Returns the rows of a role that belong to one value head of a recurrent block; 0 for others.
std::int64_t rows_of_value_head(const ModelConfig& config, Role role) {
  switch (role) {
    case Role::kDeltaValue:
    case Role::kDeltaGate:
    case Role::kDeltaValueTaps:
      return config.delta_net->value_size;
    case Role::kDeltaStep:
    case Role::kDeltaDecay:
    case Role::kDeltaDecayScale:
    case Role::kDeltaDecayBias:
      return 1;
    default:
      return 0;
  }
}

}  // namespace

const GgufArchitecture* find_gguf_architecture(std::string_view name) {
  const auto* found =
      std::find_if(kArchitectures.begin(), kArchitectures.end(),
                   [&](const GgufArchitecture& known) { return name == known.name; });
  return found == kArchitectures.end() ? nullptr : found;
}

const GgufArchitecture& architecture_of(const GgufFile& file) {
  const auto text = [&](const char* key) -> std::string {
    const GgufValue* value = file.find_value(key);
    return value == nullptr ? "" : std::string(value->text().value_or(""));
  };
  const std::string type = text("general.type");
  const std::string name = text("general.architecture");
  if (const std::string kind = kind_of_other_file(type, name); !kind.empty()) {
    throw UserError(fmt::format("{}: {} (general.type {:?}, general.architecture {:?})",
                                file.path().string(), kind, type, name));
  }
  if (const GgufArchitecture* found = find_gguf_architecture(name)) {
    return *found;
  }
  std::vector<const char*> supported;
  for (const GgufArchitecture& known : kArchitectures) {
    supported.push_back(known.name);
  }
  throw UserError(fmt::format("{}: general.architecture {:?} is not supported; supported: {}",
                              file.path().string(), name, fmt::join(supported, ", ")));
}

// Rows j and j + K/2 of a head, a rotated pair, are rows 2j and 2j + 1 if such rows are adjacent.
std::int64_t row_in_gguf(const GgufArchitecture& architecture, const ModelConfig& config, Role role,
                         std::int64_t block, std::int64_t row) {
  if (const std::int64_t size = rows_of_value_head(config, role); size > 0) {
    return value_head_in_gguf(*config.delta_net, row / size) * size + row % size;
  }
  const bool is_rotated = role == Role::kQuery || role == Role::kKey || role == Role::kQueryBias ||
                          role == Role::kKeyBias;
  if (!architecture.adjacent_rotary_rows || !is_rotated) {
    return row;
  }
  const std::int64_t size = head_size_of(config, attention_of(config, block));
  const std::int64_t half = size / 2;
  const std::int64_t in_head = row % size;
  return row - in_head + in_head % half * 2 + in_head / half;
}

std::string gguf_tensor_name(Role role, std::int64_t block) {
  return name_of(kNames, role, block);
}

std::int64_t value_head_in_gguf(const DeltaNetSizes& sizes, std::int64_t head) {
  const std::int64_t group = sizes.value_heads / sizes.key_heads;
  return head % group * sizes.key_heads + head / group;
}

TensorPlace gguf_tensor_place(const ModelConfig& config, Role role, std::int64_t block) {
  const Role named = role == Role::kMlpNorm && calls_mlp_norm_post_attention(config)
                         ? Role::kAttentionOutputNorm
                         : role;
  return place_in(
      config, role, block,
      {name_of(kNames, named, block), fmt::format("blk.{}.attn_qkv.weight", block),
       fmt::format("blk.{}.attn_qkv.bias", block), fmt::format("blk.{}.ffn_up.weight", block)});
}

}  // namespace bipo
