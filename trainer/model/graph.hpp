// The frozen decoder as a graph of blocks, sharded over a tensor-parallel group.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "collectives/communicator.hpp"
#include "trainer/model/config.hpp"
#include "trainer/model/sequence_layout.hpp"
#include "trainer/model/sharding.hpp"
#include "trainer/model/weights.hpp"

namespace bipo {

// T tokens of a packed batch, R rows that predict an answer token, D hidden.
//
// The residual stream is float32 (float64 in a float64 model) whatever type the products are in.
// The model knows nothing of steering: callers run it up to a block, change what comes out, and run
// on.
class Decoder {
 public:
  // Reads this rank's slices.  `product_type` is the type of the matrix products: float32, bfloat16
  // or float64.  `tp` must outlive the decoder.  Local: communicates with no one.
  Decoder(const ModelConfig& config, const WeightSource& source, at::ScalarType product_type,
          at::Device device, Communicator& tp);

  // Bytes of the weights that a rank of a tensor-parallel group holds while loading is complete and
  // nothing has been released.
  static std::uint64_t weight_bytes(const ModelConfig& config, std::int64_t tp,
                                    std::int64_t tp_rank, at::ScalarType product_type,
                                    at::Device device);

  const ModelConfig& config() const { return config_; }
  at::Device device() const { return device_; }
  at::ScalarType residual_type() const;

  // The layout of a packed batch: positions[t] is the place of row t in its sequence.
  SequenceLayout layout(const std::vector<std::int64_t>& positions,
                        std::vector<AttentionSpan> spans) const;

  // ids [T] int64 -> [T, D].  Collective over: tp
  at::Tensor embed(const at::Tensor& ids) const;

  // The residual stream after blocks.end - 1, from that before blocks.begin: h [T, D] -> [T, D].
  // Collective over: tp, here and in the backward pass
  at::Tensor run_blocks(at::Tensor h, Range blocks, const SequenceLayout& layout) const;

  // log-probabilities [R] of `targets` as the tokens after `rows`; h [T, D] is the last block's
  // output. Collective over: tp, here and in the backward pass
  at::Tensor next_token_log_probs(const at::Tensor& h, const at::Tensor& rows,
                                  const at::Tensor& targets) const;

  // Frees weights that will not be used again.
  void release_blocks(Range blocks);
  void release_embedding();

 private:
  struct Block {
    at::Tensor attention_norm;    // [D]
    at::Tensor qkv;               // [(H + 2 Hkv) K, D] of this rank's heads
    at::Tensor attention_output;  // [D, H K]
    at::Tensor mlp_norm;          // [D]
    at::Tensor gate_up;           // [2 I, D] of this rank's columns
    at::Tensor down;              // [D, I]
  };

  at::Tensor attention(const Block& block, const at::Tensor& h, const SequenceLayout& layout) const;
  at::Tensor mlp(const Block& block, const at::Tensor& h) const;

  ModelConfig config_;
  at::ScalarType product_type_;
  at::Device device_;
  Communicator& tp_;
  ShardPlan shard_;
  std::vector<std::int64_t> kv_head_of_query_;  // of this rank's heads
  at::Tensor inverse_frequencies_;              // [K / 2] float32
  at::Tensor embedding_;                        // [V, D] of this rank's rows
  std::vector<Block> blocks_;
  at::Tensor final_norm_;  // [D]
  at::Tensor head_;        // [V, D] of this rank's rows
};

}  // namespace bipo
