// The part of a block through which its tokens see others, whatever it computes there.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "trainer/model/decoder/resident_weights.hpp"
#include "trainer/model/operators/attention.hpp"
#include "trainer/model/operators/sequence_layout.hpp"
#include "trainer/model/recurrence/delta_rule.hpp"

namespace bipo {

// T tokens of a packed batch, U rows that predict, n new rows, D hidden.

// What later rows need of the rows before them, in one block.
struct BlockCache {
  KeptRows rows;      // attention
  KeptStates states;  // a recurrence
};

// Blocks of one kind share a mixer, which therefore holds no weights.  All functions take the
// residual stream before the block and return it after the mixer's part of the block, the MLP's
// left out.  Results have gradients unless said otherwise.  Collective over: the decoder's tp
// group, here and in the backward pass.
class SequenceMixer {
 public:
  SequenceMixer() = default;
  virtual ~SequenceMixer() = default;
  SequenceMixer(const SequenceMixer&) = delete;
  SequenceMixer& operator=(const SequenceMixer&) = delete;

  // h [T, D] -> [T, D]
  virtual at::Tensor run(const BlockWeights& block, const at::Tensor& h,
                         const SequenceLayout& layout) const = 0;

  // h [T, D] -> [U, D]: the rows that predict.
  virtual at::Tensor run_to_answers(const BlockWeights& block, const at::Tensor& h,
                                    const SequenceLayout& layout) const = 0;

  // New rows h [n, D] -> [n, D]; what later rows need of them goes to `cache`.  No gradient.
  // Where the products allow it, a row has the same bits whatever else is computed with it and
  // wherever its sequence is cut into parts.
  virtual at::Tensor run_cached(const BlockWeights& block, const at::Tensor& h,
                                const CachedLayout& layout, const BlockCache& cache) const = 0;

  // Allocates what `rows` rows in `regions` regions leave to later ones.
  virtual BlockCache make_cache(std::int64_t rows, std::int64_t regions) const = 0;
};

}  // namespace bipo
