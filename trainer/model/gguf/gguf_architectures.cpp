#include "trainer/model/gguf/gguf_architectures.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
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

const char* name_in_block(Role role) {
  switch (role) {
    case Role::kAttentionNorm:
      return "attn_norm.weight";
    case Role::kQuery:
      return "attn_q.weight";
    case Role::kKey:
      return "attn_k.weight";
    case Role::kValue:
      return "attn_v.weight";
    case Role::kQueryBias:
      return "attn_q.bias";
    case Role::kKeyBias:
      return "attn_k.bias";
    case Role::kValueBias:
      return "attn_v.bias";
    case Role::kQueryNorm:
      return "attn_q_norm.weight";
    case Role::kKeyNorm:
      return "attn_k_norm.weight";
    case Role::kAttentionOutput:
      return "attn_output.weight";
    case Role::kAttentionOutputBias:
      return "attn_output.bias";
    case Role::kAttentionOutputNorm:
      return "post_attention_norm.weight";
    case Role::kMlpNorm:
      return "ffn_norm.weight";
    case Role::kGate:
      return "ffn_gate.weight";
    case Role::kUp:
      return "ffn_up.weight";
    case Role::kDown:
      return "ffn_down.weight";
    case Role::kMlpOutputNorm:
      return "post_ffw_norm.weight";
    case Role::kEmbedding:
    case Role::kFinalNorm:
    case Role::kHead:
      break;
  }
  throw BugError("GGUF names: role outside a block");
}

std::string gguf_tensor_name(Role role, std::int64_t block) {
  switch (role) {
    case Role::kEmbedding:
      return kGgufEmbedding;
    case Role::kFinalNorm:
      return "output_norm.weight";
    case Role::kHead:
      return kGgufHead;
    default:
      return fmt::format("blk.{}.{}", block, name_in_block(role));
  }
}

}  // namespace

const GgufArchitecture* find_gguf_architecture(std::string_view name) {
  const auto* found =
      std::find_if(kArchitectures.begin(), kArchitectures.end(),
                   [&](const GgufArchitecture& known) { return name == known.name; });
  return found == kArchitectures.end() ? nullptr : found;
}

std::string supported_gguf_architectures() {
  std::vector<const char*> names;
  for (const GgufArchitecture& known : kArchitectures) {
    names.push_back(known.name);
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

TensorPlace gguf_tensor_place(const ModelConfig& config, Role role, std::int64_t block) {
  return place_in(config, role,
                  {gguf_tensor_name(role, block), fmt::format("blk.{}.attn_qkv.weight", block),
                   fmt::format("blk.{}.ffn_up.weight", block)});
}

}  // namespace bipo
