// Tiny models of four blocks, one for each way in which families differ from Llama.
#pragma once

#include <cmath>
#include <optional>

#include "tests/support/tiny_model.hpp"

namespace bipo::testing {

inline ModelConfig llama_config() {
  ModelConfig config = tiny_config();
  config.blocks = 4;
  return config;
}

// Soft caps, windows, norms of outputs, a tied head, scaled embeddings.
inline ModelConfig gemma_config() {
  ModelConfig config = llama_config();
  config.activation = Activation::kGeluTanh;
  config.embedding_scale = std::sqrt(20.0);
  config.query_pre_attention_scalar = 6;
  config.attention_soft_cap = 5;
  config.logit_soft_cap = 3;
  config.output_norms = true;
  config.tied_head = true;
  config.attention_kinds = {AttentionKind{}, AttentionKind{}};
  config.attention_kinds[0].window = 3;
  config.kind_of_block = {0, 1, 0, 1};
  return config;
}

// Biases, norms of queries and keys, and more tokens than one block of the head holds on a device.
inline ModelConfig qwen_config() {
  ModelConfig config = llama_config();
  config.query_key_value_bias = true;
  config.attention_output_bias = true;
  config.query_key_norms = QueryKeyNorms::kByHead;
  config.vocabulary = 33000;
  return config;
}

// Two kinds of blocks with other heads, values that are keys, norms of values, a part of the heads
// that turns, scales of blocks.
inline ModelConfig gemma4_config() {
  ModelConfig config = llama_config();
  config.activation = Activation::kGeluTanh;
  config.embedding_scale = std::sqrt(20.0);
  config.score_scale = 1;
  config.logit_soft_cap = 3;
  config.query_key_norms = QueryKeyNorms::kByHead;
  config.value_norms = true;
  config.output_norms = true;
  config.block_scales = true;
  config.tied_head = true;
  config.rotary.resize(2);
  config.rotary[0].rotated = 4;
  config.rotary[0].over_whole_head = true;
  config.rotary[1].theta = 50;
  config.attention_kinds = {AttentionKind{.head_size = 8, .kv_heads = 1, .values_are_keys = true},
                            AttentionKind{.window = 3, .rotary = 1, .head_size = 4, .kv_heads = 3}};
  config.kind_of_block = {1, 0, 1, 0};
  return config;
}

// Attention and MLP side by side, LayerNorm, blocks without positions, a scale of logits.
inline ModelConfig cohere_config() {
  ModelConfig config = llama_config();
  config.norm = Norm::kLayer;
  config.parallel_blocks = true;
  config.logit_scale = 0.25;
  config.tied_head = true;
  config.rotary.front().adjacent_pairs = true;
  config.attention_kinds = {AttentionKind{.window = 3}, AttentionKind{.rotary = std::nullopt}};
  config.kind_of_block = {0, 0, 0, 1};
  return config;
}

// Norms of outputs alone, and of all heads of queries and keys together.
inline ModelConfig olmo_config() {
  ModelConfig config = llama_config();
  config.query_key_norms = QueryKeyNorms::kOfAllHeads;
  config.input_norms = false;
  config.output_norms = true;
  return config;
}

// Half of a head turns, in adjacent pairs; norms before and behind, biases.
inline ModelConfig glm_config() {
  ModelConfig config = llama_config();
  config.query_key_value_bias = true;
  config.output_norms = true;
  config.rotary.front().rotated = 2;
  config.rotary.front().adjacent_pairs = true;
  return config;
}

// Queries that grow with their position, and scales of embeddings, scores and branches.
inline ModelConfig scaled_config() {
  ModelConfig config = llama_config();
  config.rotary.front().query_growth = 0.5;
  config.rotary.front().query_context = 3;
  config.embedding_scale = 2;
  config.score_scale = 0.3;
  config.residual_scale = 0.5;
  return config;
}

// LayerNorm with biases and a norm for each of attention and MLP, which stand side by side; biases
// everywhere, an MLP without gates, exact GELU.
inline ModelConfig neox_config() {
  ModelConfig config = llama_config();
  config.kv_heads = config.heads;
  config.norm = Norm::kLayer;
  config.norm_biases = true;
  config.parallel_blocks = true;
  config.parallel_norms = true;
  config.query_key_value_bias = true;
  config.attention_output_bias = true;
  config.gated_mlp = false;
  config.mlp_biases = true;
  config.head_bias = true;
  config.activation = Activation::kGelu;
  return config;
}

// Gated delta nets, and attention with gates.
inline ModelConfig recurrent_config() {
  ModelConfig config = llama_config();
  config.gated_attention = true;
  config.query_key_norms = QueryKeyNorms::kByHead;
  config.kind_of_block = {0, 0, 0, 0};
  set_recurrent_blocks(
      {true, true, false, true},
      {.key_heads = 3, .value_heads = 6, .key_size = 4, .value_size = 5, .taps = 3}, config);
  return config;
}

}  // namespace bipo::testing
