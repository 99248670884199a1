// A model's architecture: sizes and the variations of the decoder's graph.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "trainer/model/architecture/rotary.hpp"

namespace bipo {

// What the gate of the MLP goes through (Shazeer, arXiv 2002.05202): SwiGLU or GeGLU, the latter
// with the tanh approximation of GELU (Hendrycks and Gimpel, arXiv 1606.08415, section 2).
enum class Activation { kSilu, kGeluTanh };

// What distinguishes the attention of some blocks from that of others.
struct AttentionKind {
  // A token attends to itself and the window - 1 tokens before it; 0: to all before it.
  std::int64_t window = 0;
  // Place in ModelConfig::rotary; nothing: no positions enter (NoPE).
  std::optional<std::size_t> rotary = 0;

  bool operator==(const AttentionKind&) const = default;
};

// D hidden, H query heads, Hkv key/value heads, K head size, I MLP columns, V vocabulary, N blocks.
struct ModelConfig {
  std::string architecture;
  std::int64_t hidden = 0;        // D
  std::int64_t blocks = 0;        // N
  std::int64_t heads = 0;         // H
  std::int64_t kv_heads = 0;      // Hkv, divides H
  std::int64_t head_size = 0;     // K
  std::int64_t intermediate = 0;  // I
  std::int64_t vocabulary = 0;    // V
  std::int64_t context = 0;       // longest sequence, tokens
  double norm_epsilon = 1e-6;
  bool tied_head = false;  // the head is the embedding

  Activation activation = Activation::kSilu;
  double embedding_scale = 1;                        // what embeddings are multiplied by
  std::optional<double> query_pre_attention_scalar;  // scores are divided by its root; else by K's
  double attention_soft_cap = 0;  // c: scores become c tanh(score / c) (Gemma 2); 0: they do not
  double logit_soft_cap = 0;      // the same for the head's logits
  bool query_key_value_bias = false;
  bool attention_output_bias = false;
  bool query_key_norms = false;    // RMSNorm of every query and key head before rotation
  bool output_norms = false;       // RMSNorm of what attention and MLP add to the residual stream
  bool norms_from_one = false;     // files hold norm weights less 1
  bool fused_projections = false;  // files hold query, key, value as one tensor, gate and up too

  std::vector<RotaryEmbedding> rotary = {
      RotaryEmbedding{}};  // one or two; all turn the same elements
  std::vector<AttentionKind> attention_kinds = {AttentionKind{}};
  std::vector<std::size_t> kind_of_block;  // [N], places in attention_kinds; empty: all 0
};

// Reads directory/config.json as transformers' class for the architecture does, its defaults
// included.  Throws UserError for a missing or malformed file, an architecture that is not
// supported (naming those that are), and every field that changes the mathematics in a way this
// program does not implement: nothing of that kind is ignored.
ModelConfig read_model_config(const std::filesystem::path& directory);

// Sets attention_kinds and kind_of_block from what is said of each of the N blocks: whether
// positions enter, and whether it has the window (0: there is none) and with it the last of the
// rotary embeddings.
void set_attention_kinds(const std::vector<bool>& rotated, const std::vector<bool>& windowed,
                         std::int64_t window, ModelConfig& config);

// Throws UserError unless the model has the block `layer`, which --layer names.
void check_layer(std::int64_t layer, const ModelConfig& config);

}  // namespace bipo
