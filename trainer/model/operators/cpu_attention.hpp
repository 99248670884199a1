// Attention in float32 on the CPU: small matrix products per head and span, with no copy of a key
// for the answers that share it and no mask.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "trainer/model/operators/attention.hpp"
#include "trainer/model/operators/sequence_layout.hpp"

namespace bipo {

// Columns of a row-major matrix: the first row's first element, and the distance between rows.
struct Columns {
  float* first = nullptr;
  std::int64_t stride = 0;
};

// n queries, T keys.  What the backward pass needs, beside the values; attention weights are
// computed again there.
struct AttentionMemory {
  at::Tensor result;    // [n, H K]
  at::Tensor queries;   // [H n, K] rotated and scaled, in the order they are worked on
  at::Tensor keys;      // [Hkv, T, K] rotated
  at::Tensor log_sums;  // [H n] of the exponentials of a query's scores, in that order
};

// `q`: H K columns of n rows; `kv`: Hkv K columns of keys, then as many of values, of T rows.
AttentionMemory attend(Columns q, Columns kv, const AttentionHeads& heads, const QuerySet& queries,
                       const QuerySet& keys);

// Rotated keys and values of earlier and new rows, kept for the rows after them: [Hkv, C, K] each,
// contiguous.  What a QuerySet's spans call rows are their C rows.
struct KeptRows {
  const at::Tensor& keys;
  const at::Tensor& values;
};

// Row i of `kv` (as of attend()) becomes row places[i] of `kept`; `rows` holds its angles.
void keep_rows(Columns kv, const AttentionHeads& heads, const QuerySet& rows,
               const std::int64_t* places, KeptRows kept);

// The values of attend() for queries of rows that are kept: [n, H K].
at::Tensor attend_to_kept(Columns q, const AttentionHeads& heads, const QuerySet& queries,
                          KeptRows kept);

// Writes the gradients of q and kv, every element of their columns, from d_result [n, H K].
void attend_backward(const AttentionMemory& memory, Columns kv, const at::Tensor& d_result,
                     const AttentionHeads& heads, const QuerySet& queries, const QuerySet& keys,
                     Columns d_q, Columns d_kv);

}  // namespace bipo
