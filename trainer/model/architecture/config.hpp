// A model's architecture: sizes and variations of the decoder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace bipo {

// The activation of the MLP's gate (Shazeer, arXiv 2002.05202): SwiGLU, or GeGLU with the tanh
// approximation of GELU (Hendrycks and Gimpel, arXiv 1606.08415, section 2).
enum class Activation { kSilu, kGeluTanh };

// Rotary position embeddings (Su et al., arXiv 2104.09864) may rescale their frequencies for longer
// contexts.

// Divides all frequencies by one number (position interpolation, arXiv 2306.15595).
struct LinearRopeScaling {
  double factor = 1;

  bool operator==(const LinearRopeScaling&) const = default;
};

// Llama 3.1's rescaling by wavelength (rope_type "llama3").
struct Llama3RopeScaling {
  double factor = 1;
  double low_frequency_factor = 1;
  double high_frequency_factor = 4;
  double original_context = 8192;

  bool operator==(const Llama3RopeScaling&) const = default;
};

// YaRN (Peng et al., arXiv 2309.00071, section 3.2): interpolates below `slow` rotations over the
// original context, keeps the frequencies above `fast` rotations, and blends between.
struct YarnRopeScaling {
  double factor = 1;
  double fast = 32;  // beta of the paper
  double slow = 1;   // alpha of the paper
  double original_context = 4096;
  bool whole_dimensions = true;  // the blend begins and ends at whole pairs of elements

  bool operator==(const YarnRopeScaling&) const = default;
};

struct RotaryEmbedding {
  double theta = 10000;
  std::int64_t rotated = 0;  // R, even: only the first R elements of a head turn; 0: all turn
  std::vector<float> divisors = {};  // [R / 2], one for each frequency; empty: all 1
  std::variant<std::monostate, LinearRopeScaling, Llama3RopeScaling, YarnRopeScaling> scaling = {};
  double factor = 1;  // multiplies the turned elements

  bool operator==(const RotaryEmbedding&) const = default;
};

// A kind of attention, which some or all blocks have.
struct AttentionKind {
  // A token attends to itself and the window - 1 tokens before it; 0: to all before it.
  std::int64_t window = 0;
  // Index in ModelConfig::rotary; nothing: the block uses no positions (NoPE).
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
  double embedding_scale = 1;                        // multiplies embeddings
  std::optional<double> query_pre_attention_scalar;  // its root divides scores; default: K
  double attention_soft_cap = 0;  // c: scores become c tanh(score / c) (Gemma 2); 0: no cap
  double logit_soft_cap = 0;      // the same for the head's logits
  bool query_key_value_bias = false;
  bool attention_output_bias = false;
  bool query_key_norms = false;    // RMSNorm of every query and key head before rotation
  bool output_norms = false;       // RMSNorm of what attention and MLP add to the residual stream
  bool norms_from_one = false;     // files hold norm weights minus 1
  bool fused_projections = false;  // files hold query, key, value as one tensor, gate and up too

  std::vector<RotaryEmbedding> rotary = {
      RotaryEmbedding{}};  // one or two; all turn the same elements
  std::vector<AttentionKind> attention_kinds = {AttentionKind{}};
  std::vector<std::size_t> kind_of_block;  // [N], indices in attention_kinds; empty: all 0

  std::vector<std::string> warnings;  // settings of the file that are read and not used
};

// Reads directory/config.json as transformers' class for the architecture does, its defaults
// included.  Throws UserError for a missing or malformed file, an unsupported architecture (naming
// those that are supported), and every field that changes the mathematics in a way that this
// program does not implement.  Warns about every other field that it does not use and that is not
// known to leave the mathematics alone, and where transformers 4 and 5 read the file differently.
ModelConfig read_model_config(const std::filesystem::path& directory);

// Sets attention_kinds and kind_of_block.  For each of the N blocks: `rotated` says whether it uses
// positions, `windowed` whether it has the window (0: none) and the last of the rotary embeddings.
void set_attention_kinds(const std::vector<bool>& rotated, const std::vector<bool>& windowed,
                         std::int64_t window, ModelConfig& config);

// Throws UserError unless the model has block `layer`, the value of --layer.
void check_layer(std::int64_t layer, const ModelConfig& config);

}  // namespace bipo
