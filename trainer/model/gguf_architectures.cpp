#include "trainer/model/gguf_architectures.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <vector>

#include "collectives/errors.hpp"

namespace bipo {
namespace {

constexpr std::array kArchitectures = {
    GgufArchitecture{"llama", "LlamaForCausalLM", true},
};

const char* name_in_block(Role role) {
  switch (role) {
    case Role::kAttentionNorm:
      return "attn_norm";
    case Role::kQuery:
      return "attn_q";
    case Role::kKey:
      return "attn_k";
    case Role::kValue:
      return "attn_v";
    case Role::kAttentionOutput:
      return "attn_output";
    case Role::kMlpNorm:
      return "ffn_norm";
    case Role::kGate:
      return "ffn_gate";
    case Role::kUp:
      return "ffn_up";
    case Role::kDown:
      return "ffn_down";
    default:
      throw BugError("GGUF names: role outside a block");
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

std::string gguf_tensor_name(Role role, std::int64_t block) {
  switch (role) {
    case Role::kEmbedding:
      return "token_embd.weight";
    case Role::kFinalNorm:
      return "output_norm.weight";
    case Role::kHead:
      return "output.weight";
    default:
      return fmt::format("blk.{}.{}.weight", block, name_in_block(role));
  }
}

}  // namespace bipo
