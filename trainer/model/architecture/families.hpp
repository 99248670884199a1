// The model families that this program runs, and how their mathematics and files differ.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/model/architecture/config.hpp"

namespace bipo {

// Which projections of the attention have biases.
enum class Biases { kNone, kIfConfigured, kQueryKeyValue };

// Which blocks attend within a window, if the files do not list them.
enum class WindowedBlocks {
  kNone,
  kAll,                  // if a window is given
  kFromConfiguredBlock,  // if enabled, from block max_window_layers on
  kUnrotated,            // if enabled, those without positions
  kAllButEveryNth,       // all but blocks N, 2 N, ..., counted from 1
};

// Default values are those of transformers' configuration classes.
struct Family {
  std::string_view architecture;  // in config.json's "architectures"
  std::string_view model_type;    // in config.json
  Activation activation = Activation::kSilu;
  Biases biases = Biases::kNone;
  bool query_key_norms = false;
  bool output_norms = false;
  bool norms_from_one = false;
  bool fused_projections = false;
  bool embedding_times_root = false;  // embeddings are multiplied by sqrt(D)
  bool attention_soft_cap = false;    // has one, as in the next two lines
  bool logit_soft_cap = false;
  bool query_scalar = false;
  bool unrotated_blocks = false;
  bool partial_rotation = false;
  bool long_rope = false;  // rescales rotary frequencies by LongRoPE (arXiv 2402.13753)
  // transformers 4 prefers "type" to "rope_type" in rope_scaling.
  bool old_rope_type_first = false;
  WindowedBlocks windowed = WindowedBlocks::kNone;
  std::int64_t full_every = 0;    // the N of kAllButEveryNth
  bool configured_every = false;  // files may say another N
  bool lists_windowed_blocks = false;
  double local_theta = 0;  // in blocks with a window; 0: as in the others

  bool tied_head = false;
  std::int64_t kv_heads = 0;   // 0: as many as query heads
  std::int64_t head_size = 0;  // 0: D / H
  std::int64_t context = 0;
  std::int64_t window = 0;
  double norm_epsilon = 1e-6;
  double theta = 10000;
  double query_scalar_value = 0;
  double attention_soft_cap_value = 0;
  double logit_soft_cap_value = 0;
};

// Returns nullptr for an unsupported architecture.
const Family* find_family(std::string_view architecture);

// Returns nullptr for a model_type that no supported family has.
const Family* find_family_of_type(std::string_view model_type);

// Returns "LlamaForCausalLM, ...".
std::string supported_architectures();

// Returns [blocks] whether each block uses positions, if the files do not list it: in families with
// unrotated blocks, every `interval`-th block does not.
std::vector<bool> rotated_by_default(const Family& family, std::int64_t blocks,
                                     std::int64_t interval);

// Returns [N] whether each block has the window, if the files do not list it.  `first` is the block
// of kFromConfiguredBlock, `every` the N of kAllButEveryNth.
std::vector<bool> windowed_by_default(const Family& family, const std::vector<bool>& rotated,
                                      std::int64_t first, std::int64_t every);

// Sets what follows from the family alone; the sizes must be known.
void apply_family(const Family& family, ModelConfig& config);

}  // namespace bipo
