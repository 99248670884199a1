// Which part of every tensor a tensor-parallel rank holds: one table from tensor role to split
// axis.
#pragma once

#include <cstdint>
#include <vector>

#include "trainer/model/architecture/config.hpp"
#include "trainer/model/sharding/range.hpp"

namespace bipo {

// Part `index` of [0, count) cut into `parts` contiguous ranges whose sizes differ by at most one,
// the longer ones first.
Range split_range(std::int64_t count, std::int64_t parts, std::int64_t index);

// The weights of the decoder.
enum class Role {
  kEmbedding,
  kAttentionNorm,
  kQuery,
  kKey,
  kValue,
  kQueryBias,
  kKeyBias,
  kValueBias,
  kQueryNorm,
  kKeyNorm,
  kAttentionOutput,
  kAttentionOutputBias,
  kAttentionOutputNorm,
  kMlpNorm,
  kGate,
  kUp,
  kDown,
  kMlpOutputNorm,
  kFinalNorm,
  kHead,
};

// Those that every block of the model has one of.
std::vector<Role> block_roles(const ModelConfig& config);

// Those of the whole model that stand outside its blocks and in its files.
std::vector<Role> outer_roles(const ModelConfig& config);

bool is_norm(Role role);

// What the rank at `tp_rank` of `tp` works on.  Query heads are split first; a rank holds every
// key/value head that its query heads attend to, so ranks may share one.
struct ShardPlan {
  Range heads;         // of H
  Range kv_heads;      // of Hkv
  Range intermediate;  // of I
  Range vocabulary;    // of V
};

// Throws UserError when tp exceeds the number of query heads.
ShardPlan plan_shard(const ModelConfig& config, std::int64_t tp, std::int64_t tp_rank);

// Shape of a role's weight, [out, in] for products, [n] for norms and biases (columns = 0 then).
struct TensorShape {
  std::int64_t rows = 0;
  std::int64_t columns = 0;

  bool is_vector() const { return columns == 0; }
};
TensorShape full_shape(const ModelConfig& config, Role role);

// The part of that weight which the rank holds.
struct Slice {
  Range rows;
  Range columns;  // empty for norms and biases
};
Slice slice_of(const ModelConfig& config, const ShardPlan& plan, Role role);

// How many elements the rank holds of each kind of weight.
struct HeldElements {
  std::int64_t block_matrices = 0;  // of one block
  std::int64_t block_vectors = 0;   // norms and biases of one block
  std::int64_t final_norm = 0;
  std::int64_t embedding = 0;
  std::int64_t head = 0;  // where it is tied, the same ones as the embedding's
};
HeldElements held_elements(const ModelConfig& config, const ShardPlan& plan);

}  // namespace bipo
