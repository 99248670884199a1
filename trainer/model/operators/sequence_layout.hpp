// Which rows of a packed batch attend to which, and at which positions of their sequences they are.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "trainer/model/architecture/config.hpp"
#include "trainer/model/sharding/sharding.hpp"

namespace bipo {

// T tokens of the packed batch, U rows that predict an answer token, K head size.

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

// Counts the rows of `span.context`.
std::int64_t context_size(const QuerySpan& span);

// The S spans padded to the longest one (q queries, k keys): index tables for attention composed of
// tensor operations.
struct PaddedSpans {
  at::Tensor query_of_slot;  // [S q] int64
  at::Tensor key_of_slot;    // [S k] int64
  at::Tensor mask;           // [S, 1, q, k] bool: true where a query sees a key
  at::Tensor slot_of_query;  // [queries] int64
};

struct QuerySet {
  std::vector<QuerySpan> spans;  // their queries cover [0, n) in order
  at::Tensor cos;                // [n, K / 2] at each query's position, times the rotary factor
  at::Tensor sin;                // [n, K / 2]
  std::optional<PaddedSpans> padded;
};

// The layout for one kind of block.
struct AttentionLayout {
  std::shared_ptr<const QuerySet> all;      // every row is a query: n = T
  std::shared_ptr<const QuerySet> answers;  // only the rows that predict are queries: n = U
};

struct SequenceLayout {
  std::vector<AttentionLayout> kinds;  // in the order of ModelConfig::attention_kinds
  at::Tensor answer_rows;              // [U] int64, ascending: the rows that predict
};

// New rows of a sequence whose earlier rows are in a KeyValueCache.  They follow the rows of
// `context` and the first rows of `own`, and become the last rows.size() rows of `own`.
struct CachedPart {
  Range rows;  // of the batch
  Range own;   // of the cache
  std::vector<Range> context;
};

struct CachedLayout {
  std::vector<QuerySet> kinds;  // in the order of ModelConfig::attention_kinds; spans name the
                                // cache's rows
  at::Tensor places;            // [n] int64: where in the cache the new rows go
};

// Makes the layouts of batches for one model.
class LayoutBuilder {
 public:
  // `type`: of the residual stream.
  LayoutBuilder(const ModelConfig& config, at::ScalarType type, at::Device device);

  // positions[t] is the place of row t in its sequence; `parts` cover the rows in order;
  // `answer_rows` (ascending) are the rows that predict.
  SequenceLayout packed(const std::vector<std::int64_t>& positions,
                        const std::vector<SequencePart>& parts,
                        const std::vector<std::int64_t>& answer_rows) const;

  // `parts` cover the new rows in order.
  CachedLayout cached(const std::vector<CachedPart>& parts) const;

 private:
  // One kind of attention: how the pairs of elements of a head turn with position, and what rows
  // see.
  struct Kind {
    at::Tensor frequencies;  // [K / 2] float32
    at::Tensor factors;      // [K / 2] float32, multiply turned elements
    std::int64_t window = 0;
  };

  QuerySet at_positions(const at::Tensor& positions, const Kind& kind) const;

  at::ScalarType type_;
  at::Device device_;
  std::vector<Kind> kinds_;
};

}  // namespace bipo
