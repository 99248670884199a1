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
    GgufArchitecture{"gemma2", "Gemma2ForCausalLM", false},
    GgufArchitecture{"gemma3", "Gemma3ForCausalLM", false},
    GgufArchitecture{"smollm3", "SmolLM3ForCausalLM", true},
    GgufArchitecture{"phi3", "Phi3ForCausalLM", false},
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
    {Role::kAttentionOutput, "blk.{}.attn_output.weight"},
    {Role::kAttentionOutputBias, "blk.{}.attn_output.bias"},
    {Role::kAttentionOutputNorm, "blk.{}.post_attention_norm.weight"},
    {Role::kMlpNorm, "blk.{}.ffn_norm.weight"},
    {Role::kGate, "blk.{}.ffn_gate.weight"},
    {Role::kUp, "blk.{}.ffn_up.weight"},
    {Role::kDown, "blk.{}.ffn_down.weight"},
    {Role::kMlpOutputNorm, "blk.{}.post_ffw_norm.weight"},
    {Role::kFinalNorm, "output_norm.weight"},
    {Role::kHead, kGgufHead},
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
                         std::int64_t row) {
  const bool is_rotated = role == Role::kQuery || role == Role::kKey || role == Role::kQueryBias ||
                          role == Role::kKeyBias;
  if (!architecture.adjacent_rotary_rows || !is_rotated) {
    return row;
  }
  const std::int64_t half = config.head_size / 2;
  const std::int64_t in_head = row % config.head_size;
  return row - in_head + in_head % half * 2 + in_head / half;
}

TensorPlace gguf_tensor_place(const ModelConfig& config, Role role, std::int64_t block) {
  return place_in(config, role,
                  {name_of(kNames, role, block), fmt::format("blk.{}.attn_qkv.weight", block),
                   fmt::format("blk.{}.ffn_up.weight", block)});
}

}  // namespace bipo
