// The model families that this program runs: one table of what distinguishes their graphs and
// files.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/model/architecture/config.hpp"

namespace bipo {

// Which projections of the attention have biases.
enum class Biases { kNone, kIfConfigured, kQueryKeyValue };

// Which blocks attend within a window, where the files do not list them.
enum class WindowedBlocks {
  kNone,
  kAll,                  // where a window is given
  kFromConfiguredBlock,  // if switched on, from block max_window_layers on
  kUnrotated,            // if switched on, those without positions
  kAllButEveryNth,       // blocks N, 2 N, ... of 1, 2, ... see everything
};

// The values that stand in for absent ones are those of transformers' configuration classes.
struct Family {
  std::string_view architecture;  // in config.json's "architectures"
  Activation activation = Activation::kSilu;
  Biases biases = Biases::kNone;
  bool query_key_norms = false;
  bool output_norms = false;
  bool norms_from_one = false;
  bool fused_projections = false;
  bool embedding_times_root = false;  // embeddings are multiplied by sqrt(D)
  bool attention_soft_cap = false;    // has one; so do the next two
  bool logit_soft_cap = false;
  bool query_scalar = false;
  bool unrotated_blocks = false;
  bool partial_rotation = false;
  bool long_rope = false;  // its rescaling of rotary frequencies is LongRoPE (arXiv 2402.13753)
  WindowedBlocks windowed = WindowedBlocks::kNone;
  std::int64_t full_every = 0;  // the N of kAllButEveryNth
  bool lists_windowed_blocks = false;
  double local_theta = 0;  // of blocks with a window; 0: as of the others

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

// nullptr for those that are not supported.
const Family* find_family(std::string_view architecture);

// "LlamaForCausalLM, ..."
std::string supported_architectures();

// [blocks] Whether positions enter each block, where the files do not list it: not in every
// `interval`-th of families with such blocks.
std::vector<bool> rotated_by_default(const Family& family, std::int64_t blocks,
                                     std::int64_t interval);

// [N] Whether each block has the window, if there is one, where the files do not list it.  `first`
// and `every` are those of WindowedBlocks.
std::vector<bool> windowed_by_default(const Family& family, const std::vector<bool>& rotated,
                                      std::int64_t first, std::int64_t every);

// What follows from the family alone, once the sizes are known.
void apply_family(const Family& family, ModelConfig& config);

}  // namespace bipo
