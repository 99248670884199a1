// Which rows of a packed batch attend to which, and at which positions of their sequences they are.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "trainer/model/architecture/config.hpp"
#include "trainer/model/operators/upload.hpp"
#include "trainer/model/sharding/sharding.hpp"

namespace bipo {

// T tokens of the packed batch, U rows that predict an answer token, K head size of the block's
// kind of attention.

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
  at::Tensor slot_of_query;  // [queries] int64
  at::Tensor slots_by_key;   // int64: the slots that hold a key, those of key 0 first
  at::Tensor slots_per_key;  // [T] int64: how many of them hold each key
  at::Tensor first_slot;     // [T + 1] int64: where those of each key begin
  at::Tensor bias;           // [S, 1, q, k] of the residual type: 0 where a query sees a key, else
                             // minus infinity
  at::Tensor cos;            // [n, 1, K]: QuerySet's, for both halves of a head
  at::Tensor sin;            // [n, 1, K]: likewise, with a minus for the first half
};

// The S spans one after the other, for flash attention: keys without padding.
struct JoinedSpans {
  at::Tensor row_of_key;    // [k] int64: the rows that the first span sees, then those of the next
  at::Tensor keys_by_row;   // [k] int64: the keys that are row 0, then those that are row 1
  at::Tensor first_key;     // [T + 1] int64: where those of each row begin
  at::Tensor query_bounds;  // [S + 1] int32: where the queries of each span begin, and n
  at::Tensor key_bounds;    // [S + 1] int32: likewise its keys
  std::int64_t most_queries = 0;  // of a span
  std::int64_t most_keys = 0;
  std::int64_t window = 0;  // as in QuerySpan
  at::Tensor cos;           // as in PaddedSpans
  at::Tensor sin;
};

struct QuerySet {
  std::vector<QuerySpan> spans;  // their queries cover [0, n) in order
  at::Tensor cos;                // [n, K / 2] at each query's position, times the rotary factor
  at::Tensor sin;                // [n, K / 2]
  at::Tensor query_scale;        // [n, 1], multiplies the queries; undefined: all are 1
  std::optional<PaddedSpans> padded;
  std::optional<JoinedSpans> joined;  // instead, where flash attention runs
};

// The layout for one kind of block.
struct AttentionLayout {
  std::shared_ptr<const QuerySet> all;      // every row is a query: n = T
  std::shared_ptr<const QuerySet> answers;  // only the rows that predict are queries: n = U
};

// Rows of one sequence whose recurrence is computed together.
struct StateChunk {
  Range rows;
  std::int64_t from = -1;  // the state that they begin with; -1: zeros
  std::int64_t to = -1;    // where the state after them goes; -1: nobody needs it
};

// Chunks that begin with states of the same depth, padded to the longest (c rows): index tables for
// a recurrence composed of tensor operations.
struct PaddedChunks {
  at::Tensor row_of_slot;  // [n c] int64; slots without a row name the row after the last
  at::Tensor parents;      // [n] int64, among the chunks of the depth before; undefined at depth 0
};

// Which rows a causal convolution of W taps sees.
struct TapRows {
  std::int64_t taps = 0;           // W
  std::vector<std::int64_t> rows;  // [n, W] of each output row, the last one nearest; -1: none
  at::Tensor padded;  // [n, W] int64, -1 as the row after the last; undefined without tables
};

// The same chunks for our own kernels (device_kernels.cuh).
struct CompiledChunks {
  at::Tensor table;               // [chunks, 7] int64: device_kernels::Chunk
  at::Tensor chunk_of_row;        // [T] int64
  at::Tensor children;            // int64: the followers of each chunk, by their number among such
  std::vector<at::Tensor> parts;  // [parts, 2] int64 for each depth, the number of parts before it
                                  // in its sequence: the parts' first chunks, and those behind them
  at::Tensor uses;  // int64: which taps see each row, as output * W + tap, those of row 0 first
  at::Tensor first_use;        // [T + 1 or more] int64: where those of each row begin
  std::int64_t followers = 0;  // chunks that begin with a state
  std::int64_t width = 0;      // of the longest chunk
};

// How a recurrence runs through a packed batch: every part begins with the state in which the part
// before it in its sequence ended.
struct RecurrentLayout {
  std::vector<StateChunk> chunks;         // cover the rows in order
  std::int64_t states = 0;                // that chunks begin with, zeros aside
  std::vector<Range> trees;               // of chunks: those of different trees share no state
  std::vector<std::vector<Range>> parts;  // of chunks, by the number of parts before a part
  TapRows taps;
  std::vector<PaddedChunks> depths;        // of RecurrenceTables::kPadded
  at::Tensor slot_of_row;                  // [T] int64, among the slots of all depths; likewise
  std::optional<CompiledChunks> compiled;  // of RecurrenceTables::kCompiled
};

struct SequenceLayout {
  std::vector<AttentionLayout> kinds;                // in the order of ModelConfig::attention_kinds
  std::shared_ptr<const RecurrentLayout> recurrent;  // of models with recurrent blocks
  at::Tensor answer_rows;                            // [U] int64, ascending: the rows that predict
};

// Returns the bytes of its tensors.
std::uint64_t bytes_of(const SequenceLayout& layout);

// Returns the smallest of a few sizes that is not below `size`: 1 to 8, then four between a power
// of 2 and the next.
std::int64_t rounded_size(std::int64_t size);

// A layout whose tables are in an Upload.
struct UnsentLayout {
  // Makes the layout of the tables where the Upload has bound them, and asks the device for what
  // follows from them; may be called again when they are bound to other memory.
  std::function<SequenceLayout()> finish;
  // What the device is asked depends on nothing of the host's but these and the tables' shapes.
  std::vector<std::int64_t> constants;
};

// New rows of a sequence whose earlier rows are in a DecoderCache.  They follow the rows of
// `context` and the first rows of `own`, and become the last rows.size() rows of `own`.  Where
// these are all rows of `own`, a region of the cache begins: what the cache holds there is of a
// sequence that has ended.
struct CachedPart {
  Range rows;  // of the batch
  Range own;   // of the cache
  std::vector<Range> context;
  // For blocks that keep one state of a region: the numbers of the region that `own` begins and of
  // the last one in `context`; -1: none.
  std::int64_t region = 0;
  std::int64_t region_before = -1;
};

// How a recurrence goes on with new rows in P parts, each of which leaves its state in a region of
// the cache.
struct CachedRecurrence {
  struct Part {
    Range rows;               // of the batch
    std::int64_t region = 0;  // where its state goes
    std::int64_t origin = 0;  // the region whose state it begins with; -1: zeros
  };

  std::vector<Part> parts;
  TapRows taps;        // over the W - 1 rows before each part, all of them first, then the new rows
  at::Tensor regions;  // [P] int64
  at::Tensor origins;  // [P] int64, 0 where there is none
  at::Tensor is_new;   // [P] bool: there is none
  at::Tensor kept;     // [P (W - 1)] int64: the rows that the part's next row sees, as in `taps`
  RecurrentLayout layout;  // of the new rows; empty without tables
};

struct CachedLayout {
  // In the order of ModelConfig::attention_kinds, those of recurrent blocks empty; spans name the
  // cache's rows.
  std::vector<QuerySet> kinds;
  at::Tensor places;  // [n] int64: where in the cache the new rows go
  std::shared_ptr<const CachedRecurrence> recurrent;  // of models with recurrent blocks
};

// The tables that a recurrence takes: none for the loops on the CPU, those of tensor operations, or
// those of our own kernels, which only SequenceParts have.
enum class RecurrenceTables { kNone, kPadded, kCompiled };

// What parts of a batch make: RecurrentLayout of SequenceParts, CachedRecurrence of CachedParts.
template <class Part>
struct RecurrenceOf;
template <>
struct RecurrenceOf<SequencePart> {
  using Layout = RecurrentLayout;
};
template <>
struct RecurrenceOf<CachedPart> {
  using Layout = CachedRecurrence;
};

// Returns the layout of a recurrence with a convolution of `taps` taps over rows in `parts`, which
// cover them in order: T rows of a packed batch, or new rows that follow those in a cache.
template <class Part>
typename RecurrenceOf<Part>::Layout recurrence_over(const std::vector<Part>& parts,
                                                    std::int64_t taps, RecurrenceTables tables,
                                                    at::Device device);

// Makes the layouts of batches for one model.
class LayoutBuilder {
 public:
  // `type`: of the residual stream; `joins`: for each kind of attention, whether flash attention
  // runs on packed batches (none: nowhere).
  LayoutBuilder(const ModelConfig& config, at::ScalarType type, at::Device device,
                std::vector<bool> joins = {});

  // positions[t] is the place of row t in its sequence; `parts` cover the rows in order;
  // `answer_rows` (ascending) are the rows that predict.  What is in `upload` is sent along.
  SequenceLayout packed(const std::vector<std::int64_t>& positions,
                        const std::vector<SequencePart>& parts,
                        const std::vector<std::int64_t>& answer_rows, Upload upload = {}) const;

  // The same in two parts, around the upload; this object must outlive the result.  `rounds`:
  // spans, their queries and keys are padded to few sizes, which changes no row's attention; not
  // for models with recurrent blocks.
  UnsentLayout begin(const std::vector<std::int64_t>& positions,
                     const std::vector<SequencePart>& parts,
                     const std::vector<std::int64_t>& answer_rows, Upload& upload,
                     bool rounds = false) const;

  // `parts` cover the new rows in order.
  CachedLayout cached(const std::vector<CachedPart>& parts) const;

 private:
  // One kind of attention: how the pairs of elements of a head turn with position, and what rows
  // see.
  struct Kind {
    at::Tensor frequencies;  // [K / 2] float32
    at::Tensor factors;      // [K / 2] float32, multiply turned elements
    std::int64_t window = 0;
    double query_growth = 0;  // as in RotaryEmbedding
    double query_context = 0;
    bool is_recurrent = false;  // rows see nothing by attention
    bool joins = false;
  };

  struct UnsentTables;  // all that finished() needs

  SequenceLayout finished(const UnsentTables& tables) const;
  static bool scales_queries(std::int64_t last, const Kind& kind);
  at::Tensor scale_of_queries(const at::Tensor& positions, std::int64_t last,
                              const Kind& kind) const;
  // Sets what depends on positions [n] float32, of which `last` is the last, in `set`.
  void set_angles(const at::Tensor& positions, std::int64_t last, const Kind& kind,
                  QuerySet& set) const;

  std::int64_t taps_ = 0;  // of recurrent blocks' convolution; 0: the model has no such blocks
  at::ScalarType type_;
  at::Device device_;
  std::vector<Kind> kinds_;
};

}  // namespace bipo
