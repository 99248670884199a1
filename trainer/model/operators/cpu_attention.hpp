// Attention in float32 on the CPU: small matrix products per head and span, without a mask and
// without copies of keys that several answers share.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "trainer/model/operators/attention.hpp"
#include "trainer/model/operators/cpu_kernels.hpp"
#include "trainer/model/operators/sequence_layout.hpp"

namespace bipo {

using kernels::Columns;

// n queries, T keys.
struct AttentionCall {
  const AttentionHeads& heads;
  const QuerySet& queries;
  const QuerySet& keys;
};

// The backward pass needs this and the values; it computes attention weights again.
struct AttentionMemory {
  at::Tensor result;    // [n, H K]
  at::Tensor queries;   // [H n, K] rotated and scaled, in the order of the work
  at::Tensor keys;      // [Hkv, T, K] rotated
  at::Tensor log_sums;  // [H n] log of the sum of exp(score) of each query, in the same order
};

// `q`: H K columns of n rows; `kv`: Hkv K columns of keys, then as many of values, of T rows.
AttentionMemory attend(Columns q, Columns kv, const AttentionCall& call);

// Allocates the keys of KeptRows in strips.
at::Tensor make_key_strips(const AttentionHeads& heads, std::int64_t rows,
                           const at::TensorOptions& options);

// Copies row i of `kv` (as in attend()) to row places[i] of `kept`; `rows` holds its angles.
void keep_rows(Columns kv, const AttentionHeads& heads, const QuerySet& rows,
               const std::int64_t* places, const KeptRows& kept);

// Returns the result [n, H K] of attend() for queries whose spans name rows of `kept`.
at::Tensor attend_to_kept(Columns q, const AttentionHeads& heads, const QuerySet& queries,
                          const KeptRows& kept);

struct AttentionGradients {
  Columns q;
  Columns kv;
};

// Writes every element of the gradients of q and kv, from d_result [n, H K].
void attend_backward(const AttentionMemory& memory, Columns kv, const at::Tensor& d_result,
                     const AttentionCall& call, AttentionGradients gradients);

}  // namespace bipo
