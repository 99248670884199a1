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

// A rank's slices of one block.  A tensor is undefined where the model has no such weight.
struct BlockWeights {
  at::Tensor attention_norm;         // [D]
  FrozenWeight qkv;                  // [(H + 2 Hkv) K, D] of this rank's heads
  at::Tensor qkv_bias;               // [(H + 2 Hkv) K]
  at::Tensor query_norm;             // [K]
  at::Tensor key_norm;               // [K]
  FrozenWeight attention_output;     // [D, H K]
  at::Tensor attention_output_bias;  // [D]
  at::Tensor attention_output_norm;  // [D]
  at::Tensor mlp_norm;               // [D]
  FrozenWeight gate_up;              // [2 I, D] of this rank's columns
  FrozenWeight down;                 // [D, I]
  at::Tensor mlp_output_norm;        // [D]
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

  const at::Tensor& final_norm() const { return final_norm_; }  // [D]
  const at::Tensor& head() const { return head_; }              // [V, D] of this rank's rows

  // Returns the bytes of the weights that are loaded now.
  std::uint64_t bytes() const;

 private:
  at::Tensor read(Role role, std::int64_t block) const;
  at::Tensor read_vector(Role role, std::int64_t block) const;
  at::Tensor read_query_key(Role role, std::int64_t block) const;
  BlockWeights read_block(std::int64_t index) const;

  ModelConfig config_;
  ShardPlan shard_;
  const WeightSource& source_;
  at::ScalarType product_type_;
  at::Device device_;
  at::Tensor embedding_;
  std::vector<std::optional<BlockWeights>> blocks_;
  at::Tensor final_norm_;
  at::Tensor head_;
};

// Returns the bytes of the weights that the rank of `shard` holds with `blocks` blocks loaded.
std::uint64_t resident_bytes(const ModelConfig& config, const ShardPlan& shard,
                             at::ScalarType product_type, at::Device device, std::int64_t blocks,
                             bool embedding);

}  // namespace bipo
