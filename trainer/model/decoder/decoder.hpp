// The forward computation of the frozen decoder, sharded over a tensor-parallel group.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "collectives/communicator.hpp"
#include "trainer/model/architecture/config.hpp"
#include "trainer/model/decoder/resident_weights.hpp"
#include "trainer/model/operators/attention.hpp"
#include "trainer/model/operators/head.hpp"
#include "trainer/model/operators/operators.hpp"
#include "trainer/model/operators/sequence_layout.hpp"
#include "trainer/model/sharding/sharding.hpp"
#include "trainer/model/weights/weights.hpp"

namespace bipo {

// Keys (rotated) and values of rows that later rows attend to, for a range of blocks.
struct KeyValueCache {
  Range blocks;
  std::vector<at::Tensor> keys;  // [Hkv, rows, K] for each block, of the residual stream's type
  std::vector<at::Tensor> values;
};

// T tokens of a packed batch, U rows that predict an answer token, R answer tokens, D hidden.
//
// The residual stream is float32 (float64 in a float64 model) whatever type the products have.
// The model does not know of steering: callers run it up to a block, change the result, and run the
// rest.  Callers also load and release blocks and the embedding, so that only those in use take
// memory.
class Decoder {
 public:
  // Reads this rank's slices of head and final norm.  `product_type` is the type of the matrix
  // products: float32, bfloat16 or float64.  `source` and `tp` must outlive the decoder, `tp` also
  // the backward passes of its results.  Does not communicate.
  Decoder(const ModelConfig& config, const WeightSource& source, at::ScalarType product_type,
          at::Device device, Communicator& tp);

  // See ResidentWeights.
  void load_blocks(Range blocks) { weights_.load_blocks(blocks); }
  void load_embedding() { weights_.load_embedding(); }
  void release_blocks(Range blocks) { weights_.release_blocks(blocks); }
  void release_embedding() { weights_.release_embedding(); }
  std::uint64_t loaded_bytes() const { return weights_.bytes(); }

  // Returns resident_bytes() of a rank of a tensor-parallel group.
  static std::uint64_t weight_bytes(const ModelConfig& config, std::int64_t tp,
                                    std::int64_t tp_rank, at::ScalarType product_type,
                                    at::Device device, std::int64_t blocks, bool embedding) {
    return resident_bytes(config, plan_shard(config, tp, tp_rank), product_type, device, blocks,
                          embedding);
  }

  const ModelConfig& config() const { return config_; }
  at::Device device() const { return device_; }
  at::ScalarType residual_type() const { return residual_type_for(product_type_); }
  at::ScalarType product_type() const { return product_type_; }

  // Returns the layout of a packed batch: positions[t] is the place of row t in its sequence;
  // `parts` cover the rows in order; `answer_rows` (ascending) are the rows that predict.
  SequenceLayout layout(const std::vector<std::int64_t>& positions,
                        const std::vector<SequencePart>& parts,
                        const std::vector<std::int64_t>& answer_rows) const {
    return layouts_.packed(positions, parts, answer_rows);
  }

  // ids [T] int64 -> [T, D].  Collective over: tp
  at::Tensor embed(const at::Tensor& ids) const;

  // Returns the residual stream after blocks.end - 1, given that before blocks.begin: h [T, D] ->
  // [T, D].  Collective over: tp, here and in the backward pass
  at::Tensor run_blocks(at::Tensor h, Range blocks, const SequenceLayout& layout) const;

  // Runs all blocks from `first_block` on and returns the rows that predict, [U, D]: the last block
  // computes only these.  Collective over: tp, here and in the backward pass
  at::Tensor run_to_answers(at::Tensor h, std::int64_t first_block,
                            const SequenceLayout& layout) const;

  // Allocates this rank's keys and values of `rows` rows in `blocks`.
  KeyValueCache make_cache(Range blocks, std::int64_t rows) const;

  // Returns the bytes of one row in one block of such a cache.
  static std::uint64_t cache_bytes_per_row(const ModelConfig& config, std::int64_t tp,
                                           std::int64_t tp_rank);

  // Returns the layout of new rows, which `parts` cover in order.
  CachedLayout cached_layout(const std::vector<CachedPart>& parts) const {
    return layouts_.cached(parts);
  }

  // run_blocks() for new rows h [n, D] that attend to earlier ones in `cache`; stores their keys
  // and values there too.  No gradient.  Collective over: tp
  at::Tensor run_cached(at::Tensor h, Range blocks, const CachedLayout& layout,
                        const KeyValueCache& cache) const;

  // Returns the logits [n, V] of the tokens after rows of the last block's output h [n, D], in
  // float32 or better, whole on every rank.  No gradient.  Collective over: tp
  at::Tensor next_token_logits(const at::Tensor& h) const;

  // Returns the log-probabilities [R] of `targets` as the tokens after the rows `row_of_target` of
  // h [U, D], the last block's output.  Collective over: tp, here and in the backward pass
  at::Tensor next_token_log_probs(const at::Tensor& h, const at::Tensor& row_of_target,
                                  const at::Tensor& targets) const;

  // Returns KL(p_t || q_st) [S, T] float64, nats, of the next-token distributions after the rows t
  // of h [T, D] (p) and of each of the S others (q), all outputs of the last block.
  // Collective over: tp
  at::Tensor next_token_divergences(const at::Tensor& h,
                                    const std::vector<at::Tensor>& others) const;

 private:
  at::Tensor attention(const BlockWeights& block, const at::Tensor& h,
                       const AttentionLayout& layout) const;
  at::Tensor answer_attention(const BlockWeights& block, const at::Tensor& h,
                              const at::Tensor& answer_rows, const AttentionLayout& layout) const;
  at::Tensor cached_attention(const BlockWeights& block, const at::Tensor& h, const QuerySet& rows,
                              const at::Tensor& places, const KeptRows& kept) const;
  at::Tensor mlp(const BlockWeights& block, const at::Tensor& h) const;

  std::int64_t query_width() const { return heads_->query_heads() * heads_->head_size; }
  std::size_t kind_of(std::int64_t block) const;
  at::Tensor normed(const at::Tensor& h, const at::Tensor& weight) const;
  at::Tensor project_heads(const BlockWeights& block, const at::Tensor& x, Range columns) const;
  at::Tensor normed_heads(const at::Tensor& x, const at::Tensor& norm) const;
  at::Tensor normed_keys(const at::Tensor& kv, const at::Tensor& norm) const;
  at::Tensor add_attention(const at::Tensor& residual, const at::Tensor& attended,
                           const BlockWeights& block) const;
  at::Tensor project_onto(const at::Tensor& residual, const at::Tensor& x,
                          const FrozenWeight& weight, const at::Tensor& bias,
                          const at::Tensor& norm) const;
  HeadShard head() const;

  ModelConfig config_;
  at::ScalarType product_type_;
  at::Device device_;
  Communicator& tp_;
  ShardPlan shard_;
  ResidentWeights weights_;
  LayoutBuilder layouts_;
  SharedHeads heads_;       // this rank's
  double embedding_scale_;  // rounded to the products' type
};

}  // namespace bipo
