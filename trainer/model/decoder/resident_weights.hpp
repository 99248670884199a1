// The decoder's weights that a rank has in memory: read from the files, released, counted in bytes.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "trainer/model/architecture/config.hpp"
#include "trainer/model/operators/operators.hpp"
#include "trainer/model/sharding/sharding.hpp"
#include "trainer/model/weights/weights.hpp"

namespace bipo {

// A rank's slices of what a recurrent block has instead of attention: Hk key heads of size K, Hv
// value heads of size V, W taps of a convolution over C = 2 Hk K + Hv V columns.
struct DeltaWeights {
  FrozenWeight input;     // [C + 2 Hv + Hv V, D]: queries, keys, values, steps, decays, gates
  at::Tensor taps;        // [W, C]
  at::Tensor decay;       // [Hv] the factor of a token's decay, negative
  at::Tensor decay_bias;  // [Hv]
  at::Tensor norm;        // [V]
  FrozenWeight output;    // [D, Hv V]
};

// A norm of D elements; undefined where there is none.
struct NormWeights {
  at::Tensor weight;
  at::Tensor bias;
};

// A rank's slices of one block.  A tensor is undefined where the model has no such weight.
struct BlockWeights {
  NormWeights attention_norm;
  FrozenWeight qkv;                  // [(H + 2 Hkv) K, D] of this rank's heads
  at::Tensor qkv_bias;               // [(H + 2 Hkv) K]
  at::Tensor query_norm;             // [K], or [H K] of this rank's heads
  at::Tensor key_norm;               // [K], or [Hkv K]
  at::Tensor value_norm;             // [K], ones
  FrozenWeight query_gate;           // [H K, D]
  FrozenWeight attention_output;     // [D, H K]
  at::Tensor attention_output_bias;  // [D]
  at::Tensor attention_output_norm;  // [D]
  NormWeights mlp_norm;              // that of the attention in most parallel blocks
  FrozenWeight gate_up;              // [2 I, D] of this rank's columns; [I, D] without gates
  at::Tensor up_bias;                // [I]
  FrozenWeight down;                 // [D, I]
  at::Tensor down_bias;              // [D]
  at::Tensor mlp_output_norm;        // [D]
  at::Tensor scale;                  // [1]
  DeltaWeights delta;                // all undefined in a block with attention
};

// Head and final norm are always loaded; blocks and the embedding only while a caller needs them.
class ResidentWeights {
 public:
  // Reads this rank's slices of head and final norm.  `product_type` is the type of the matrix
  // products: float32, bfloat16 or float64.  `source` must outlive this object.
  ResidentWeights(const ModelConfig& config, const ShardPlan& shard, const WeightSource& source,
                  at::ScalarType product_type, at::Device device);

  // Read what is not loaded yet.
  void load_blocks(Range blocks);
  void load_embedding();

  void release_blocks(Range blocks);
  void release_embedding();

  // Throw BugError unless the weights are loaded.
  const BlockWeights& block(std::int64_t index) const;
  const at::Tensor& embedding() const;  // [V, D] of this rank's rows

  // Over the divisor of the logits.
  const NormWeights& final_norm() const { return final_norm_; }
  const at::Tensor& head() const { return head_; }            // [V, D] of this rank's rows
  const at::Tensor& head_bias() const { return head_bias_; }  // [V]; undefined if there is none

  // Returns the bytes of the weights that are loaded now.
  std::uint64_t bytes() const;

 private:
  at::Tensor read(Role role, std::int64_t block) const;
  at::Tensor read_vector(Role role, std::int64_t block) const;
  at::Tensor read_query_key(Role role, std::int64_t block) const;
  NormWeights read_norm(Role weight, Role bias, std::int64_t block) const;
  void read_mlp(std::int64_t index, BlockWeights& block) const;
  at::Tensor read_query_or_gate(std::int64_t block, std::int64_t which) const;
  at::Tensor in_rotary_order(const at::Tensor& rows, std::int64_t block) const;
  void read_attention(std::int64_t index, BlockWeights& block) const;
  DeltaWeights read_delta(std::int64_t index) const;
  BlockWeights read_block(std::int64_t index) const;

  ModelConfig config_;
  ShardPlan shard_;
  const WeightSource& source_;
  at::ScalarType product_type_;
  at::Device device_;
  at::Tensor embedding_;
  std::vector<std::optional<BlockWeights>> blocks_;
  NormWeights final_norm_;
  at::Tensor head_;
  at::Tensor head_bias_;
};

// Returns the bytes of the weights that the rank of `shard` holds with `blocks` loaded.
std::uint64_t resident_bytes(const ModelConfig& config, const ShardPlan& shard,
                             at::ScalarType product_type, at::Device device, Range blocks,
                             bool embedding);

}  // namespace bipo
