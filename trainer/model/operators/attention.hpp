// Causal attention over a packed batch, span by span, without a mask over the whole batch.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/TensorOptions.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "trainer/model/operators/compiled_operators.hpp"
#include "trainer/model/operators/sequence_layout.hpp"

namespace bipo {

// The heads of this rank: H query heads over Hkv key/value heads of size K, and how their scores
// are formed.
struct AttentionHeads {
  std::int64_t head_size = 0;                  // K
  std::vector<std::int64_t> kv_head_of_query;  // [H], does not decrease
  std::int64_t kv_heads = 0;                   // Hkv
  double scale = 1;                            // s, mostly 1 / sqrt(K)
  double soft_cap = 0;                         // c; 0: scores are not capped
  // On a device with our own kernels: the products before and behind attention are in bfloat16, and
  // take its result and the gradient of its input in it.
  bool narrow = false;

  // For attention without the fused operators, on the device of the queries:
  at::Tensor kv_index;  // [H] int64: kv_head_of_query
  at::Tensor
      kv_members;  // [Hkv, H] of the residual type: 1 where the key/value head is the query's
  at::Tensor first_query;  // [Hkv + 1] int64: where the query heads of each key/value head begin

  std::int64_t query_heads() const { return static_cast<std::int64_t>(kv_head_of_query.size()); }
  std::int64_t query_width() const { return query_heads() * head_size; }
};

// Sets the last three.
void set_head_tables(AttentionHeads& heads, at::TensorOptions residual);

// Shared, because the autograd graph keeps both until its backward pass has run.
using SharedHeads = std::shared_ptr<const AttentionHeads>;
using SharedQueries = std::shared_ptr<const QuerySet>;

// Returns softmax(cap(s rot(q) rot(k)^T)) v for every row, [T, H K], where qkv [T, (H + 2 Hkv) K]
// holds queries, keys and values before rotation (rotary position embedding of Su et al., arXiv
// 2104.09864, section 3.2, in the half-split order of Hugging Face checkpoints), and cap(x) = c
// tanh(x / c) (Gemma 2, arXiv 2408.00118, section 2).
// `operands` are applied before rotation, on devices with runs_compiled() only.  There qkv is
// [T, (H + Hkv) K] where operands.shares_keys.
at::Tensor self_attention(const at::Tensor& qkv, const SharedHeads& heads,
                          const SharedQueries& rows, const HeadTransforms& operands = {});

// The same from q [n, H K] and kv [T, 2 Hkv K] (or, likewise, [T, Hkv K]) -> [n, H K]: `queries`
// describes the n rows of q, `keys` the T rows of kv.
at::Tensor attention(const at::Tensor& q, const at::Tensor& kv, const SharedHeads& heads,
                     const SharedQueries& queries, const SharedQueries& keys,
                     const HeadTransforms& operands = {});

// Rotated keys and values of earlier and new rows, kept for later rows, contiguous.
struct KeptRows {
  // [Hkv, C, K]; on a CPU that multiplies tiles [Hkv, C / 16, K, 16], as products read them, so
  // that no product brings the keys of all earlier rows into this order again.
  at::Tensor keys;
  at::Tensor values;  // [Hkv, C, K]
};

// Allocates rows for later use; `options`: of the residual stream.
KeptRows make_kept_rows(const AttentionHeads& heads, std::int64_t rows,
                        const at::TensorOptions& options);

// The same for rows that join earlier ones: writes the keys (rotated) and values of row i of kv
// [n, 2 Hkv K] to row places[i] of `kept`, where the queries q [n, H K] attend to the rows that the
// spans of `rows` name.  q and kv may be columns of a wider matrix.  No gradient.
at::Tensor cached_attention(const at::Tensor& q, const at::Tensor& kv, const AttentionHeads& heads,
                            const QuerySet& rows, const at::Tensor& places, const KeptRows& kept,
                            const HeadTransforms& operands = {});

}  // namespace bipo
