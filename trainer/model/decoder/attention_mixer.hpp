// Softmax attention as the part of a block through which tokens see others.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "trainer/model/architecture/config.hpp"
#include "trainer/model/decoder/block_operators.hpp"
#include "trainer/model/decoder/resident_weights.hpp"
#include "trainer/model/decoder/sequence_mixer.hpp"
#include "trainer/model/operators/attention.hpp"
#include "trainer/model/operators/operators.hpp"
#include "trainer/model/operators/sequence_layout.hpp"
#include "trainer/model/sharding/sharding.hpp"

namespace bipo {

class AttentionMixer final : public SequenceMixer {
 public:
  // `kind`: index in ModelConfig::attention_kinds; `shard`: this rank's part.  `config` and
  // `operators` must outlive the mixer.
  AttentionMixer(const ModelConfig& config, const ShardPlan& shard, std::size_t kind,
                 const BlockOperators& operators, at::TensorOptions residual);

  // Whether packed batches attend by flash attention, with products in `product_type` (see
  // runs_flash_attention()).
  static bool runs_flash(const ModelConfig& config, const ShardPlan& shard, std::size_t kind,
                         at::ScalarType product_type, at::Device device);

  at::Tensor run(const BlockWeights& block, const at::Tensor& h,
                 const SequenceLayout& layout) const override;
  at::Tensor run_to_answers(const BlockWeights& block, const at::Tensor& h,
                            const SequenceLayout& layout) const override;
  at::Tensor run_cached(const BlockWeights& block, const at::Tensor& h, const CachedLayout& layout,
                        const BlockCache& cache) const override;
  BlockCache make_cache(std::int64_t rows, std::int64_t regions) const override;

  // Why the kind's heads cannot attend by flash attention (see flash_obstacle()).
  static std::string flash_obstacle(const ModelConfig& config, const ShardPlan& shard,
                                    std::size_t kind, std::int64_t largest_head);

  // See DeltaMixer.
  static constexpr bool kHasIndependentRows = true;

 private:
  bool fuses_heads(const at::Tensor& x) const;
  HeadTransforms head_operands(const BlockWeights& block, const QuerySet& rows) const;
  at::Tensor project_heads(const BlockWeights& block, const at::Tensor& x, Range columns) const;
  at::Tensor normed_heads(const at::Tensor& x, const at::Tensor& norm) const;
  at::Tensor queries(const BlockWeights& block, const at::Tensor& x, const QuerySet& rows) const;
  at::Tensor keys_and_values(const BlockWeights& block, const at::Tensor& kv) const;
  at::Tensor gated(const BlockWeights& block, const at::Tensor& attended,
                   const at::Tensor& x) const;
  at::Tensor add_attention(const BlockWeights& block, const at::Tensor& residual,
                           const at::Tensor& attended) const;

  const ModelConfig& config_;
  std::size_t kind_;
  const BlockOperators& operators_;
  at::TensorOptions residual_;
  SharedHeads heads_;   // this rank's
  bool norm_together_;  // queries and keys, each of all heads
  Range counted_keys_;  // of this rank's columns, in such a norm
};

}  // namespace bipo
