// Causal attention over a packed batch, span by span, without a mask over the whole batch.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "trainer/model/sequence_layout.hpp"

namespace bipo {

// softmax(q k^T / sqrt(K)) v for each span of `layout` against its context and itself.
//
// q [T, H, K]; k, v [T, Hkv, K]; H and Hkv are this rank's heads.  kv_head_of_query[h] is the
// key/value head that query head h attends to; it does not decrease.  Returns [T, H K].  `layout`
// must outlive the backward pass.
at::Tensor packed_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const std::vector<std::int64_t>& kv_head_of_query,
                            const SequenceLayout& layout);

}  // namespace bipo
