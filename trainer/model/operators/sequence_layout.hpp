// Which rows of a packed batch attend to which, and where they stand in their sequences.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "trainer/model/sharding/range.hpp"

namespace bipo {

// T: tokens of the packed batch, U: rows that predict an answer token, K: head size.

// Rows that follow one another in a sequence, after all rows of `context` (earlier parts of it).
struct SequencePart {
  Range rows;
  std::vector<Range> context;
};

// Queries i = 0, 1, ... of `queries` attend to all rows of `context` and to the first `visible` + i
// rows of `own`; of these, where there is a window, to the last `window` only.
struct QuerySpan {
  Range queries;
  Range own;
  std::int64_t visible = 1;
  std::vector<Range> context;
  std::int64_t window = 0;  // 0: none
};

// Rows of `span.context`.
std::int64_t context_size(const QuerySpan& span);

// The spans padded to the longest of the S spans (q queries, k keys): index tables for attention
// composed of tensor operations.
struct PaddedSpans {
  at::Tensor query_of_slot;  // [S q] int64
  at::Tensor key_of_slot;    // [S k] int64
  at::Tensor mask;           // [S, 1, q, k] bool: true where a query sees a key
  at::Tensor slot_of_query;  // [queries] int64
};

struct QuerySet {
  std::vector<QuerySpan> spans;  // their queries cover [0, n) in order
  at::Tensor cos;                // [n, K / 2] rotary factors at each query's position
  at::Tensor sin;                // [n, K / 2]
  std::optional<PaddedSpans> padded;
};

// What the attention of one kind of block sees.
struct AttentionLayout {
  QuerySet all;      // every row asks: n = T
  QuerySet answers;  // only the rows that predict ask: n = U
};

// Made by Decoder::layout().
struct SequenceLayout {
  std::vector<AttentionLayout> kinds;  // in the order of ModelConfig::attention_kinds
  at::Tensor answer_rows;              // [U] int64, ascending: the rows that predict
};

// New rows of a sequence whose earlier rows are kept in a KeyValueCache: after those of `context`
// and the first of `own`, whose last rows.size() rows they become.
struct CachedPart {
  Range rows;  // of the batch
  Range own;   // of the cache
  std::vector<Range> context;
};

// Made by Decoder::cached_layout().
struct CachedLayout {
  std::vector<QuerySet> kinds;  // in the order of ModelConfig::attention_kinds; spans name the
                                // cache's rows
  at::Tensor places;            // [n] int64: where in the cache the new rows go
};

// What the rows `answer_rows` (ascending) ask, of spans made of `parts`, which cover [0, T) in
// order; all rows ask where it is null.  `window`: as of QuerySpan.
std::vector<QuerySpan> query_spans(const std::vector<SequencePart>& parts,
                                   const std::vector<std::int64_t>* answer_rows,
                                   std::int64_t window);

PaddedSpans pad_spans(const std::vector<QuerySpan>& spans, at::Device device);

}  // namespace bipo
