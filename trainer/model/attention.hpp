// Causal attention over a packed batch, span by span, without a mask over the whole batch.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "trainer/model/sequence_layout.hpp"

namespace bipo {

// The heads of this rank: H query heads over Hkv key/value heads of size K.
struct AttentionHeads {
  std::int64_t head_size = 0;                  // K
  std::vector<std::int64_t> kv_head_of_query;  // [H], does not decrease
  std::int64_t kv_heads = 0;                   // Hkv

  std::int64_t query_heads() const { return static_cast<std::int64_t>(kv_head_of_query.size()); }
};

// softmax(rot(q) rot(k)^T / sqrt(K)) v for every row, where qkv [T, (H + 2 Hkv) K] holds queries,
// keys and values before rotation (rotary position embedding of Su et al., arXiv 2104.09864,
// section 3.2, in the half-split order of Hugging Face checkpoints).  Returns [T, H K].  `heads`
// and `layout` must outlive the backward pass.
at::Tensor self_attention(const at::Tensor& qkv, const AttentionHeads& heads,
                          const SequenceLayout& layout);

// The same for the rows that predict answer tokens only: q [U, H K], kv [T, 2 Hkv K] -> [U, H K].
at::Tensor answer_attention(const at::Tensor& q, const at::Tensor& kv, const AttentionHeads& heads,
                            const SequenceLayout& layout);

}  // namespace bipo
