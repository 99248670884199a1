// The model families that this program runs, and how their mathematics and files differ.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/model/architecture/config.hpp"

namespace bipo {

// Which projections of the attention have biases.
enum class Biases {
  kNone,
  kQueryKeyValue,
  kIfConfigured,               // all four by attention_bias
  kQueryKeyValueIfConfigured,  // these by attention_bias
  kOutputApart,                // these by attention_bias, that of the output by attention_out_bias
  kAll,                        // all four
  kEverywhereIfConfigured,     // all four and those of the MLP by use_bias
};

// What the file says about the activation of the MLP's gate.
enum class ActivationKey {
  kHiddenAct,
  kHiddenActivation,
  kHiddenActOldGelu,  // hidden_act, where "gelu" means the tanh approximation, too
};

// Which blocks attend within a window, if the files do not list them.
enum class WindowedBlocks {
  kNone,
  kAll,                  // if a window is given
  kFromConfiguredBlock,  // if enabled, from block max_window_layers on
  kUnrotated,            // if enabled, those without positions
  kAllButEveryNth,       // all but blocks N, 2 N, ..., counted from 1
  kAllButEveryNthFrom0,  // all but blocks 0, N, 2 N, ..., counted from 0
};

// Which blocks use positions.
enum class RotatedBlocks {
  kAll,
  kListed,         // by no_rope_layers, or all but every no_rope_layer_interval-th
  kByType,         // all if position_embedding_type is "rope", else none
  kWindowed,       // those with a window
  kWindowedIfAny,  // those with a window, or all in a model without windows
};

// Sizes that files of a family may leave out; 0: they may not.
struct DefaultSizes {
  std::int64_t hidden = 0;
  std::int64_t blocks = 0;
  std::int64_t heads = 0;
  std::int64_t intermediate = 0;
  std::int64_t vocabulary = 0;
};

// Default values are those of transformers' configuration classes.
struct Family {
  std::string_view architecture;  // in config.json's "architectures"
  std::string_view model_type;    // in config.json
  Activation activation = Activation::kSilu;
  ActivationKey activation_key = ActivationKey::kHiddenAct;
  bool gated_mlp = true;
  Norm norm = Norm::kRms;
  bool norm_biases = false;
  bool parallel_blocks = false;
  bool configured_parallel = false;  // files may say otherwise
  bool parallel_norms = false;
  Biases biases = Biases::kNone;
  bool biased = false;  // where attention_bias or use_bias is missing
  bool mlp_biases = false;
  bool head_bias = false;
  QueryKeyNorms query_key_norms = QueryKeyNorms::kNone;
  bool value_norms = false;
  bool input_norms = true;
  bool output_norms = false;
  NormNames norm_names = NormNames::kLlama;
  MlpNames mlp_names = MlpNames::kMlp;
  Naming naming = Naming::kLlama;
  const char* epsilon_key = "rms_norm_eps";
  const char* theta_key = "rope_theta";
  const char* rotated_part_key = "partial_rotary_factor";
  const char* intermediate_key = "intermediate_size";
  bool hybrid = false;  // files may describe experts and recurrent blocks, which are refused
  bool norms_from_one = false;
  bool fused_query_key_value = false;
  bool fused_by_head = false;
  bool fused_gate_up = false;
  bool block_scales = false;
  bool embedding_times_root = false;  // embeddings are multiplied by sqrt(D)
  bool attention_soft_cap = false;    // has one, as in the next two lines
  bool logit_soft_cap = false;
  bool query_scalar = false;  // files may say another one than query_scalar_value
  bool multipliers = false;   // of embeddings, scores and branches, and a divisor of logits
  RotatedBlocks rotated = RotatedBlocks::kAll;
  bool partial_rotation = false;
  bool adjacent_pairs = false;   // rotation turns elements 2 i and 2 i + 1
  bool growing_queries = false;  // multiplied by a number that grows with the position
  // Positions in images have sections of their own among the rotated pairs; a text's positions are
  // the same in all of them.
  bool sectioned_rotation = false;
  bool gated_attention = false;
  bool delta_net = false;  // in all blocks but every `full_every`-th, if the files do not list them
  bool long_rope = false;  // rescales rotary frequencies by LongRoPE (arXiv 2402.13753)
  // transformers 4 prefers "type" to "rope_type" in rope_scaling.
  bool old_rope_type_first = false;
  WindowedBlocks windowed = WindowedBlocks::kNone;
  std::int64_t full_every = 0;    // the N of kAllButEveryNth
  bool configured_every = false;  // files may say another N
  bool lists_windowed_blocks = false;
  bool ends_with_full_block = false;  // the last block has no window, whatever the files say
  double local_theta = 0;             // in blocks with a window; 0: as in the others
  const char* local_theta_key = "rope_local_base_freq";  // null: it has no key
  // rope_parameters alone say how heads turn, for each kind of block, as transformers 5 has it; the
  // default for blocks without a window is that this part of the whole head's pairs turns.
  double proportional_part = 0;
  bool heads_by_kind = false;     // blocks without a window have other heads
  bool per_layer_inputs = false;  // there are, unless the files set their size to 0
  bool masks_of_images = false;   // files may say that image tokens see each other both ways

  DefaultSizes sizes = {};
  bool tied_head = false;
  std::int64_t kv_heads = 0;        // 0: as many as query heads
  std::int64_t head_size = 0;       // 0: D / H
  std::int64_t full_head_size = 0;  // of blocks without a window, where they are different
  std::int64_t context = 0;
  std::int64_t window = 0;
  double norm_epsilon = 1e-6;
  double theta = 10000;
  double rotated_part = 1;                // with partial_rotation
  std::string_view rope_parameters = {};  // JSON, of files that have none
  double query_scalar_value = 0;
  double logit_scale_value = 0;  // 0: files have none
  double attention_soft_cap_value = 0;
  double logit_soft_cap_value = 0;
};

// Returns nullptr for an unsupported architecture.
const Family* find_family(std::string_view architecture);

// Returns nullptr for a model_type that no supported family has.
const Family* find_family_of_type(std::string_view model_type);

// Returns "LlamaForCausalLM, ...", with the wrappers of wrappers.hpp.
std::string supported_architectures();

// Returns [blocks] whether each block uses positions, if the files do not list it: in families that
// list them, every `interval`-th block does not (RotatedBlocks::kListed).
std::vector<bool> rotated_by_default(const Family& family, std::int64_t blocks,
                                     std::int64_t interval);

// Returns [N] whether each block uses positions, where that may depend on which blocks have the
// window (0: there is none).
std::vector<bool> rotated_with_windows(const Family& family, const std::vector<bool>& rotated,
                                       const std::vector<bool>& windowed, std::int64_t window);

// Returns [N] whether each block has the window, if the files do not list it.  `first` is the block
// of kFromConfiguredBlock, `every` the N of kAllButEveryNth.
std::vector<bool> windowed_by_default(const Family& family, const std::vector<bool>& rotated,
                                      std::int64_t first, std::int64_t every);

// Sets what follows from the family alone; the sizes must be known.
void apply_family(const Family& family, ModelConfig& config);

}  // namespace bipo
