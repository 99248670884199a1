#include "trainer/model/names.hpp"

#include <fmt/format.h>

#include "collectives/errors.hpp"

namespace bipo {
namespace {

const char* name_in_block(Role role) {
  switch (role) {
    case Role::kAttentionNorm:
      return "input_layernorm";
    case Role::kQuery:
      return "self_attn.q_proj";
    case Role::kKey:
      return "self_attn.k_proj";
    case Role::kValue:
      return "self_attn.v_proj";
    case Role::kAttentionOutput:
      return "self_attn.o_proj";
    case Role::kMlpNorm:
      return "post_attention_layernorm";
    case Role::kGate:
      return "mlp.gate_proj";
    case Role::kUp:
      return "mlp.up_proj";
    case Role::kDown:
      return "mlp.down_proj";
    default:
      throw BugError("names: role outside a block");
  }
}

}  // namespace

std::string tensor_name(Role role, std::int64_t block) {
  switch (role) {
    case Role::kEmbedding:
      return "model.embed_tokens.weight";
    case Role::kFinalNorm:
      return "model.norm.weight";
    case Role::kHead:
      return "lm_head.weight";
    default:
      return fmt::format("model.layers.{}.{}.weight", block, name_in_block(role));
  }
}

}  // namespace bipo
