// The forward computation of the frozen decoder, sharded over a tensor-parallel group.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "collectives/communicator.hpp"
#include "trainer/model/architecture/config.hpp"
#include "trainer/model/decoder/block_operators.hpp"
#include "trainer/model/decoder/resident_weights.hpp"
#include "trainer/model/decoder/sequence_mixer.hpp"
#include "trainer/model/operators/head.hpp"
#include "trainer/model/operators/operators.hpp"
#include "trainer/model/operators/sequence_layout.hpp"
#include "trainer/model/sharding/sharding.hpp"
#include "trainer/model/weights/weights.hpp"

namespace bipo {

// Returns what is to take the place of what a block's MLP returns, [T, D] -> [T, D]: before the
// norm and the factor of what is added to the residual stream.  Tensor-parallel ranks have whole
// rows.
using ChangeMlpOutput = std::function<at::Tensor(const at::Tensor&)>;

// What later rows of a generation need of earlier ones, for a range of blocks.
struct DecoderCache {
  Range blocks;
  std::vector<BlockCache> of_block;
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
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  // See ResidentWeights.
  void load_blocks(Range blocks) { weights_.load_blocks(blocks); }
  void load_embedding() { weights_.load_embedding(); }
  void release_blocks(Range blocks) { weights_.release_blocks(blocks); }
  void release_embedding() { weights_.release_embedding(); }
  std::uint64_t loaded_bytes() const { return weights_.bytes(); }

  // Returns resident_bytes() of a rank of a tensor-parallel group.
  static std::uint64_t weight_bytes(const ModelConfig& config, std::int64_t tp,
                                    std::int64_t tp_rank, at::ScalarType product_type,
                                    at::Device device, Range blocks, bool embedding) {
    return resident_bytes(config, plan_shard(config, tp, tp_rank), product_type, device, blocks,
                          embedding);
  }

  const ModelConfig& config() const { return config_; }
  at::Device device() const { return device_; }
  at::ScalarType residual_type() const { return residual_type_for(product_type_); }
  at::ScalarType product_type() const { return product_type_; }

  // Whether a row of every result depends on its own sequence only, to the bit, and not on what
  // else is packed with it: on CPUs that multiply tiles, of models all of whose blocks allow it.
  // The same on every rank of `tp` if their processors are alike.
  bool has_independent_rows() const {
    return has_independent_rows(config_, product_type_, device_, tp_.size());
  }
  static bool has_independent_rows(const ModelConfig& config, at::ScalarType product_type,
                                   at::Device device, std::int64_t tp);

  // Which blocks of a model on `tp` ranks could attend by flash attention, on a device that takes
  // heads of `largest_head` numbers at most, and why others could not.  The same on every rank.
  struct FlashFit {
    bool some = false;     // there are blocks that can
    std::string obstacle;  // of the first kind of block that cannot; empty: all can
  };
  static FlashFit flash_fit(const ModelConfig& config, std::int64_t tp, std::int64_t largest_head);

  // The same of run_cached(), and wherever sequences are cut into parts: all blocks allow it.
  bool has_independent_cached_rows() const;

  // Returns the layout of a packed batch: positions[t] is the place of row t in its sequence;
  // `parts` cover the rows in order; `answer_rows` (ascending) are the rows that predict.
  // What is in `upload` is sent to the device along with it.
  SequenceLayout layout(const std::vector<std::int64_t>& positions,
                        const std::vector<SequencePart>& parts,
                        const std::vector<std::int64_t>& answer_rows, Upload upload = {}) const {
    return layouts_.packed(positions, parts, answer_rows, std::move(upload));
  }

  // The same in two parts, see LayoutBuilder::begin().
  UnsentLayout begin_layout(const std::vector<std::int64_t>& positions,
                            const std::vector<SequencePart>& parts,
                            const std::vector<std::int64_t>& answer_rows, Upload& upload,
                            bool rounds) const {
    return layouts_.begin(positions, parts, answer_rows, upload, rounds);
  }

  // ids [T] int64 -> [T, D].  Collective over: tp
  at::Tensor embed(const at::Tensor& ids) const;

  // Returns the residual stream after blocks.end - 1, given that before blocks.begin: h [T, D] ->
  // [T, D].  `change`, where there is one, is done in each of the blocks.  Collective over: tp,
  // here and in the backward pass
  at::Tensor run_blocks(at::Tensor h, Range blocks, const SequenceLayout& layout,
                        const ChangeMlpOutput& change = nullptr) const;

  // Runs all blocks from `first_block` on and returns the rows that predict, [U, D]: the last block
  // computes only these.  Collective over: tp, here and in the backward pass
  at::Tensor run_to_answers(at::Tensor h, std::int64_t first_block,
                            const SequenceLayout& layout) const;

  // Allocates what `rows` rows leave to later ones in `blocks`, on this rank.  Parts of sequences
  // take them in at most `regions` regions at the same time, see CachedPart.
  DecoderCache make_cache(Range blocks, std::int64_t rows, std::int64_t regions) const;

  // Returns the bytes of such a cache.
  static std::uint64_t cache_bytes(const ModelConfig& config, std::int64_t tp, std::int64_t tp_rank,
                                   Range blocks, std::int64_t rows, std::int64_t regions);

  // Returns the layout of new rows, which `parts` cover in order.
  CachedLayout cached_layout(const std::vector<CachedPart>& parts) const {
    return layouts_.cached(parts);
  }

  // run_blocks() for new rows h [n, D] that follow earlier ones in `cache`; stores there what later
  // ones need of them.  No gradient.  Collective over: tp
  at::Tensor run_cached(at::Tensor h, Range blocks, const CachedLayout& layout,
                        const DecoderCache& cache, const ChangeMlpOutput& change = nullptr) const;

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
  const SequenceMixer& mixer(std::int64_t block) const;
  at::Tensor mlp(const BlockWeights& block, const at::Tensor& before, const at::Tensor& attended,
                 const ChangeMlpOutput& change = nullptr) const;
  at::Tensor final_normed(const at::Tensor& h) const;
  HeadShard head() const;

  ModelConfig config_;
  at::ScalarType product_type_;
  at::Device device_;
  Communicator& tp_;
  ShardPlan shard_;
  ResidentWeights weights_;
  LayoutBuilder layouts_;
  BlockOperators operators_;
  std::vector<std::unique_ptr<SequenceMixer>> mixers_;  // in the order of attention_kinds
  double embedding_scale_;                              // rounded to the products' type
};

}  // namespace bipo
