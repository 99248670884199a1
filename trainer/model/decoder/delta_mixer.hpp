// A gated delta net as the part of a block through which tokens see others.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "trainer/model/architecture/config.hpp"
#include "trainer/model/decoder/block_operators.hpp"
#include "trainer/model/decoder/resident_weights.hpp"
#include "trainer/model/decoder/sequence_mixer.hpp"
#include "trainer/model/operators/sequence_layout.hpp"
#include "trainer/model/recurrence/delta_rule.hpp"
#include "trainer/model/recurrence/device_delta_net.hpp"
#include "trainer/model/sharding/sharding.hpp"

namespace bipo {

// Queries, keys and values go through a short convolution and SiLU, then through the gated delta
// rule with steps sigmoid(b) and decays -exp(A) softplus(a + bias); every head of the result is
// normed by itself and multiplied by silu of its gate (Yang et al., arXiv 2412.06464, section 3.4).
// A rank holds whole value heads and the key heads that they use.
class DeltaMixer final : public SequenceMixer {
 public:
  // `shard`: this rank's part.  `config` and `operators` must outlive the mixer.
  DeltaMixer(const ModelConfig& config, const ShardPlan& shard, const BlockOperators& operators,
             at::TensorOptions residual);

  at::Tensor run(const BlockWeights& block, const at::Tensor& h,
                 const SequenceLayout& layout) const override;
  at::Tensor run_to_answers(const BlockWeights& block, const at::Tensor& h,
                            const SequenceLayout& layout) const override;
  at::Tensor run_cached(const BlockWeights& block, const at::Tensor& h, const CachedLayout& layout,
                        const BlockCache& cache) const override;
  BlockCache make_cache(std::int64_t rows, std::int64_t regions) const override;

  // Whether a row of run() and run_to_answers() has the same bits whatever else is packed with it.
  // How a sequence is cut into chunks depends on what shares its beginning.
  static constexpr bool kHasIndependentRows = false;

 private:
  std::vector<at::Tensor> split(const at::Tensor& projected, bool gates) const;
  DeltaOperands operands(const DeltaWeights& delta, const at::Tensor& mixed,
                         const std::vector<at::Tensor>& parts) const;
  DeviceDeltaNet device_net(const DeltaWeights& delta, const SequenceLayout& layout,
                            const at::Tensor& projected) const;
  at::Tensor add_output(const at::Tensor& residual, const at::Tensor& gated,
                        const DeltaWeights& delta) const;
  at::Tensor add_result(const at::Tensor& residual, const at::Tensor& result,
                        const at::Tensor& gates, const DeltaWeights& delta) const;

  const ModelConfig& config_;
  const BlockOperators& operators_;
  at::TensorOptions residual_;
  SharedDeltaHeads heads_;  // this rank's
};

}  // namespace bipo
