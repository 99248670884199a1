// A model's architecture: sizes and variations of the decoder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace bipo {

struct Wrapper;  // wrappers.hpp

// The activation of the MLP, of its gate (Shazeer, arXiv 2002.05202) if it has one: SiLU, GELU
// (Hendrycks and Gimpel, arXiv 1606.08415, section 2), or GELU's tanh approximation there.
enum class Activation { kSilu, kGelu, kGeluTanh };

// RMSNorm (Zhang and Sennrich, arXiv 1910.07467), or LayerNorm (Ba et al., arXiv 1607.06450).
enum class Norm { kRms, kLayer };

// Norms of queries and keys before rotation: of every head, or of all heads of a token together.
enum class QueryKeyNorms { kNone, kByHead, kOfAllHeads };

// The names that files have for a block's norms of D elements.
enum class NormNames {
  kLlama,  // the one before the MLP is "post_attention"
  kGemma,  // the one behind the attention is "post_attention"
  kGlm,    // the one before the MLP is "post_attention", that behind the attention "post_self_attn"
};

// The names that files have for the MLP's products.
enum class MlpNames {
  kMlp,
  kSharedMlp,  // "shared_mlp", where other models of the family have experts beside it
};

// Whose class the names in files follow, where they differ in more than the above.
enum class Naming { kLlama, kGptNeoX, kPhi, kStarCoder2 };

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
  std::int64_t rotated = 0;  // R, even: only R elements of a head turn; 0: all turn
  // Whether the pairs that turn are the first R / 2 of the whole head's K / 2, with the frequencies
  // that they have there; else the first R elements turn like a head of that size.
  bool over_whole_head = false;
  bool adjacent_pairs = false;  // files hold the two elements of a pair next to each other, instead
                                // of half of the turning elements apart
  std::vector<float> divisors = {};  // [R / 2], one for each frequency; empty: all 1
  std::variant<std::monostate, LinearRopeScaling, Llama3RopeScaling, YarnRopeScaling> scaling = {};
  double factor = 1;  // multiplies the turned elements
  // Queries at position p are multiplied by 1 + b ln(1 + floor(p / C)) (Ministral 3, after Llama
  // 4).
  double query_growth = 0;   // b; 0: they are not
  double query_context = 0;  // C, tokens

  bool operator==(const RotaryEmbedding&) const = default;
};

// A kind of attention, which some or all blocks have.
struct AttentionKind {
  // A token attends to itself and the window - 1 tokens before it; 0: to all before it.
  std::int64_t window = 0;
  // Index in ModelConfig::rotary; nothing: the block uses no positions (NoPE).
  std::optional<std::size_t> rotary = 0;
  std::int64_t head_size = 0;    // K; 0: ModelConfig::head_size
  std::int64_t kv_heads = 0;     // Hkv; 0: ModelConfig::kv_heads
  bool values_are_keys = false;  // values are the keys' product, before the keys' norm and rotation

  bool is_recurrent = false;  // a gated delta net instead, see ModelConfig::delta_net

  bool operator==(const AttentionKind&) const = default;
};

// The most taps that a recurrent block's convolution may have.
inline constexpr std::size_t kMostConvolutionTaps = 16;

// The sizes of a gated delta net (Yang et al., arXiv 2412.06464).
struct DeltaNetSizes {
  std::int64_t key_heads = 0;    // of queries and keys
  std::int64_t value_heads = 0;  // a multiple of key_heads
  std::int64_t key_size = 0;     // of a head
  std::int64_t value_size = 0;   // likewise
  std::int64_t taps = 0;         // of the convolution before the recurrence

  bool operator==(const DeltaNetSizes&) const = default;
};

// D hidden, H query heads, Hkv key/value heads, K head size, I MLP columns, V vocabulary, N blocks.
struct ModelConfig {
  std::string architecture;
  const Wrapper* wrapper = nullptr;  // the model whose text part this is; null: it stands alone
  std::int64_t hidden = 0;           // D
  std::int64_t blocks = 0;           // N
  std::int64_t heads = 0;            // H
  std::int64_t kv_heads = 0;         // Hkv, divides H; of kinds that have no number of their own
  std::int64_t head_size = 0;        // K, likewise
  std::int64_t intermediate = 0;     // I
  std::int64_t vocabulary = 0;       // V
  std::int64_t context = 0;          // longest sequence, tokens
  double norm_epsilon = 1e-6;
  bool tied_head = false;               // the head is the embedding
  bool separate_head_is_usual = false;  // tied or not, files may hold a head of its own

  Activation activation = Activation::kSilu;
  Norm norm = Norm::kRms;
  bool norm_biases = false;
  bool parallel_blocks = false;  // attention and MLP have the same input, the norm of the block's
  bool parallel_norms = false;   // in such blocks each has a norm of its own
  double embedding_scale = 1;    // multiplies embeddings
  std::optional<double> query_pre_attention_scalar;  // its root divides scores; default: K
  std::optional<double> score_scale;                 // multiplies scores instead
  double residual_scale = 1;      // multiplies what attention and MLP add to the residual stream
  double attention_soft_cap = 0;  // c: scores become c tanh(score / c) (Gemma 2); 0: no cap
  double logit_soft_cap = 0;      // the same for the head's logits
  double logit_scale = 1;         // multiplies the head's logits before that
  bool query_key_value_bias = false;
  bool attention_output_bias = false;
  bool gated_mlp = true;  // activation(gate) * up, else activation(up)
  bool mlp_biases = false;
  bool head_bias = false;
  QueryKeyNorms query_key_norms = QueryKeyNorms::kNone;  // RMSNorm
  bool value_norms = false;   // RMSNorm of every value head, without weights
  bool input_norms = true;    // RMSNorm of what attention and MLP take from the residual stream
  bool output_norms = false;  // RMSNorm of what they add to it
  NormNames norm_names = NormNames::kLlama;
  MlpNames mlp_names = MlpNames::kMlp;
  Naming naming = Naming::kLlama;
  bool norms_from_one = false;         // files hold norm weights minus 1
  bool block_scales = false;           // a number for each block multiplies its whole output
  bool fused_query_key_value = false;  // files hold query, key and value as one tensor
  bool fused_by_head = false;          // in it, query, key and value of a head are neighbours
  bool fused_gate_up = false;          // files hold gate and up as one tensor

  bool gated_attention = false;  // queries come with gates, whose sigmoids multiply the result
  std::optional<DeltaNetSizes> delta_net;  // of recurrent blocks

  std::vector<RotaryEmbedding> rotary = {RotaryEmbedding{}};  // one or two
  std::vector<AttentionKind> attention_kinds = {AttentionKind{}};
  std::vector<std::size_t> kind_of_block;  // [N], indices in attention_kinds; empty: all 0

  std::vector<std::string> warnings;  // settings of the file that are read and not used
};

// Reads directory/config.json as transformers' class for the architecture does, its defaults
// included; of a wrapper (wrappers.hpp) its text part.  Throws UserError for a missing or malformed
// file, an unsupported architecture (naming those that are supported), and every field that changes
// the mathematics in a way that this program does not implement.  Warns about every other field
// that it does not use and that is not known to leave the mathematics alone, and where transformers
// 4 and 5 read the file differently.
ModelConfig read_model_config(const std::filesystem::path& directory);

// Reads the text of a config.json in the same way; `name` is its name in messages.
ModelConfig parse_model_config(std::string_view text, const std::filesystem::path& name);

// Sets attention_kinds and kind_of_block.  For each of the N blocks: `rotated` says whether it uses
// positions, `windowed` whether it is of the kind `local`, which has the last of the rotary
// embeddings, or `global`, which has the first.
void set_attention_kinds(const std::vector<bool>& rotated, const std::vector<bool>& windowed,
                         const AttentionKind& global, const AttentionKind& local,
                         ModelConfig& config);

// Gives the blocks of which `recurrent` [N] says so a delta net instead of attention.  To be called
// after set_attention_kinds().
void set_recurrent_blocks(const std::vector<bool>& recurrent, const DeltaNetSizes& sizes,
                          ModelConfig& config);

// Return the number of a block's kind of attention, that kind, and its K and Hkv.
std::size_t kind_of(const ModelConfig& config, std::int64_t block);
const AttentionKind& attention_of(const ModelConfig& config, std::int64_t block);
std::int64_t head_size_of(const ModelConfig& config, const AttentionKind& kind);
std::int64_t kv_heads_of(const ModelConfig& config, const AttentionKind& kind);

// Returns the number s by which every change of what an MLP returns is multiplied in the block's
// output, so that v added there equals s v added to the output of the block; none where no number
// does: behind a norm, and where blocks scale their output each by a number of its own.
std::optional<double> mlp_output_factor(const ModelConfig& config);

// Throws UserError unless the model has block `layer`, the value of --layer.
void check_layer(std::int64_t layer, const ModelConfig& config);

}  // namespace bipo
