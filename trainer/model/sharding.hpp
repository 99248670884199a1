// Which part of every tensor a tensor-parallel rank holds: one table from tensor role to split
// axis.
#pragma once

#include <array>
#include <cstdint>

#include "trainer/model/config.hpp"
#include "trainer/model/range.hpp"

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
  kAttentionOutput,
  kMlpNorm,
  kGate,
  kUp,
  kDown,
  kFinalNorm,
  kHead,
};

// Those that every block has one of.
inline constexpr std::array kBlockRoles = {
    Role::kAttentionNorm, Role::kQuery, Role::kKey, Role::kValue, Role::kAttentionOutput,
    Role::kMlpNorm,       Role::kGate,  Role::kUp,  Role::kDown};

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

// Shape of a role's tensor in the files, [out, in] for products, [n] for norms (columns = 0 then).
struct TensorShape {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
};
TensorShape full_shape(const ModelConfig& config, Role role);

// The part of that tensor which the rank holds.
struct Slice {
  Range rows;
  Range columns;  // empty for norms
};
Slice slice_of(const ModelConfig& config, const ShardPlan& plan, Role role);

// How many elements the rank holds of each kind of weight.
struct HeldElements {
  std::int64_t block_matrices = 0;  // of one block
  std::int64_t block_norms = 0;     // of one block
  std::int64_t final_norm = 0;
  std::int64_t embedding = 0;
  std::int64_t head = 0;  // where it is tied, the same ones as the embedding's
};
HeldElements held_elements(const ModelConfig& config, const ShardPlan& plan);

}  // namespace bipo
