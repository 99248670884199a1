// The frozen decoder as a graph of blocks, sharded over a tensor-parallel group.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "collectives/communicator.hpp"
#include "trainer/model/architecture/config.hpp"
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
  std::vector<at::Tensor> keys;  // one of each [Hkv, rows, K] for every block, of the residual type
  std::vector<at::Tensor> values;
};

// T tokens of a packed batch, U rows that predict an answer token, R answer tokens, D hidden.
//
// The residual stream is float32 (float64 in a float64 model) whatever type the products are in.
// The model knows nothing of steering: callers run it up to a block, change what comes out, and run
// on.  Blocks and the embedding are loaded and released by the caller, so that only those in use
// take memory; head and final norm are there always.
class Decoder {
 public:
  // Reads this rank's slices of head and final norm.  `product_type` is the type of the matrix
  // products: float32, bfloat16 or float64.  `source` and `tp` must outlive the decoder, `tp`
  // also the backward passes of its results.  Does not communicate.
  Decoder(const ModelConfig& config, const WeightSource& source, at::ScalarType product_type,
          at::Device device, Communicator& tp);

  // Read what is not loaded yet of this rank's slices; free what will not be used for now.
  void load_blocks(Range blocks);
  void load_embedding();
  void release_blocks(Range blocks);
  void release_embedding();

  // Bytes of the weights that a rank of a tensor-parallel group holds with `blocks` blocks loaded.
  static std::uint64_t weight_bytes(const ModelConfig& config, std::int64_t tp,
                                    std::int64_t tp_rank, at::ScalarType product_type,
                                    at::Device device, std::int64_t blocks, bool embedding);

  // Bytes of the weights that are loaded now.
  std::uint64_t loaded_bytes() const;

  const ModelConfig& config() const { return config_; }
  at::Device device() const { return device_; }
  at::ScalarType residual_type() const;
  at::ScalarType product_type() const { return product_type_; }

  // The layout of a packed batch: positions[t] is the place of row t in its sequence; `parts` cover
  // the rows in order; `answer_rows` (ascending) are those that predict.
  SequenceLayout layout(const std::vector<std::int64_t>& positions,
                        const std::vector<SequencePart>& parts,
                        const std::vector<std::int64_t>& answer_rows) const {
    return layouts_.packed(positions, parts, answer_rows);
  }

  // ids [T] int64 -> [T, D].  Collective over: tp
  at::Tensor embed(const at::Tensor& ids) const;

  // The residual stream after blocks.end - 1, from that before blocks.begin: h [T, D] -> [T, D].
  // Collective over: tp, here and in the backward pass
  at::Tensor run_blocks(at::Tensor h, Range blocks, const SequenceLayout& layout) const;

  // The same up to the last block's output, for the rows that predict only, [U, D]: in the last
  // block no other row does more than be attended to. Collective over: tp, here and in the backward
  // pass
  at::Tensor run_to_answers(at::Tensor h, std::int64_t first_block,
                            const SequenceLayout& layout) const;

  // Room for the keys and values of `rows` rows in `blocks`, on this rank.
  KeyValueCache make_cache(Range blocks, std::int64_t rows) const;
  static std::uint64_t cache_bytes_per_row(const ModelConfig& config, std::int64_t tp,
                                           std::int64_t tp_rank);  // and block

  // The layout of new rows, which `parts` cover in order.
  CachedLayout cached_layout(const std::vector<CachedPart>& parts) const {
    return layouts_.cached(parts);
  }

  // run_blocks() for new rows h [n, D] that attend to earlier ones in `cache`, which keeps them,
  // too, afterwards.  No gradient.  Collective over: tp
  at::Tensor run_cached(at::Tensor h, Range blocks, const CachedLayout& layout,
                        const KeyValueCache& cache) const;

  // Logits [n, V] of the tokens after rows of the last block's output h [n, D], in float32 or
  // better, whole on every rank.  No gradient.  Collective over: tp
  at::Tensor next_token_logits(const at::Tensor& h) const;

  // log-probabilities [R] of `targets` as the tokens after the rows `row_of_target` of h [U, D],
  // the last block's output. Collective over: tp, here and in the backward pass
  at::Tensor next_token_log_probs(const at::Tensor& h, const at::Tensor& row_of_target,
                                  const at::Tensor& targets) const;

  // KL(p_t || q_st) [S, T] float64, nats, of the next-token distributions after the rows t of h
  // [T, D] (p) and of each of the S others (q), all outputs of the last block. Collective over: tp
  at::Tensor next_token_divergences(const at::Tensor& h,
                                    const std::vector<at::Tensor>& others) const;

 private:
  // Undefined tensors: the model has no such weight.
  struct Block {
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

    std::vector<at::Tensor> tensors() const;  // those that are defined
  };

  at::Tensor read(Role role, std::int64_t block) const;
  at::Tensor read_vector(Role role, std::int64_t block) const;
  at::Tensor read_query_key(Role role, std::int64_t block) const;
  Block read_block(std::int64_t index) const;
  const Block& block(std::int64_t index) const;
  std::size_t kind_of(std::int64_t block) const;
  // Queries and keys with values of rows, before rotation.
  struct HeadColumns {
    at::Tensor q;   // [n, H K]
    at::Tensor kv;  // [n, 2 Hkv K]
  };
  HeadColumns normed_columns(const Block& block, const at::Tensor& qkv) const;
  at::Tensor project_heads(const Block& block, const at::Tensor& h) const;
  at::Tensor cached_attention(const Block& block, const at::Tensor& h, const QuerySet& rows,
                              const at::Tensor& places, const at::Tensor& keys,
                              const at::Tensor& values) const;
  at::Tensor normed_heads(const at::Tensor& x, const at::Tensor& norm) const;
  at::Tensor with_normed_keys(const at::Tensor& kv, const at::Tensor& norm) const;
  at::Tensor attention(const Block& block, const at::Tensor& h,
                       const AttentionLayout& layout) const;
  at::Tensor answer_attention(const Block& block, const at::Tensor& h,
                              const at::Tensor& answer_rows, const AttentionLayout& layout) const;
  at::Tensor mlp(const Block& block, const at::Tensor& h) const;
  at::Tensor normed(const at::Tensor& h, const at::Tensor& weight) const;
  // residual + norm(x W^T + bias), the product summed over the tp group's parts; bias and norm
  // where they are defined.
  at::Tensor project_onto(const at::Tensor& residual, const at::Tensor& x,
                          const FrozenWeight& weight, const at::Tensor& bias,
                          const at::Tensor& norm) const;

  HeadShard head() const;

  ModelConfig config_;
  const WeightSource& source_;
  at::ScalarType product_type_;
  at::Device device_;
  Communicator& tp_;
  ShardPlan shard_;
  SharedHeads heads_;  // this rank's
  LayoutBuilder layouts_;
  double embedding_scale_;  // as the products' type holds it
  at::Tensor embedding_;    // [V, D] of this rank's rows
  std::vector<std::optional<Block>> blocks_;
  at::Tensor final_norm_;  // [D]
  at::Tensor head_;        // [V, D] of this rank's rows
};

}  // namespace bipo
