// Attention on devices with our own kernels: bfloat16 models by libtorch's flash attention over
// sequences of different lengths, all others in slots that are padded to the longest span.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "trainer/model/operators/attention.hpp"
#include "trainer/model/operators/compiled_operators.hpp"
#include "trainer/model/operators/sequence_layout.hpp"

namespace bipo {

// Why flash attention cannot compute these heads, on a device whose largest head it is; empty if it
// can.
std::string flash_obstacle(const AttentionHeads& heads, std::int64_t largest_head);

// Whether flash attention runs for these heads of a model whose products have `product_type`: on a
// device that has it (largest_flash_head()), in bfloat16, where scores have no cap, heads a
// multiple of 8 numbers, and key/value heads equal groups of query heads.  Throws UserError where
// it was asked for (choose_attention()) and the heads do not allow it.
bool runs_flash_attention(const AttentionHeads& heads, at::ScalarType product_type,
                          at::Device device);

// self_attention() and attention() for tensors with runs_compiled(), of heads that have passed
// through nothing yet: `operands` are applied as they turn.  The result is bfloat16 where
// heads.narrow.
at::Tensor device_self_attention(const at::Tensor& qkv, const AttentionHeads& heads,
                                 const QuerySet& rows, const HeadTransforms& operands);
at::Tensor device_attention(const at::Tensor& q, const at::Tensor& kv, const AttentionHeads& heads,
                            const QuerySet& queries, const QuerySet& keys,
                            const HeadTransforms& operands);

// Likewise cached_attention(), in slots.
at::Tensor device_cached_attention(const at::Tensor& q, const at::Tensor& kv,
                                   const AttentionHeads& heads, const QuerySet& rows,
                                   const at::Tensor& places, const KeptRows& kept,
                                   const HeadTransforms& operands);

}  // namespace bipo
