#include "trainer/cost/device_activations.hpp"

#include <cmath>

namespace bipo {
namespace {

// An index is an int64, two elements.
constexpr double kIndex = 2;

// What flash attention's backward pass works with: a part of the queries' gradient for each of so
// many blocks that run at the same time, one for each multiprocessor of an H100, whose spans are
// apart by a block's queries.
constexpr double kMultiprocessors = 132;
constexpr double kFlashBlock = 128;

double up_to_multiple(double x, double of) {
  return std::ceil(x / of) * of;
}

// Rows of queries and keys as the device's attention takes them: in slots, where every span is
// padded to the longest, or, for flash attention, one span after the other.
struct PaddedRows {
  double queries = 0;  // without padding
  double keys = 0;     // of all spans, without padding
  double spans = 0;
  double longest_queries = 0;
  double longest_keys = 0;

  double query_slots() const { return spans * longest_queries; }
  double key_slots() const { return spans * longest_keys; }
  double scores() const { return query_slots() * longest_keys; }
};

// A micro-batch: T tokens, U of which predict.
struct DeviceBatch {
  double pairs = 0;
  double tokens = 0;
  double rows = 0;     // U
  double targets = 0;  // answer tokens
  double trees = 0;    // sequences with a beginning of their own, shared by pairs or not
  double shared = 0;
  double longest_prompt = 0;
  double longest_answer = 0;  // without its last token
  PaddedRows all;
  PaddedRows answers;  // the last block's, whose queries are the rows that predict
};

DeviceBatch batch_of(const RunShape& run) {
  const TokenCounts& pair = run.pair;
  const double pairs = run.micro_pairs;
  const TokenCounts micro = micro_batch_of(pair, pairs, run.ways);
  const double answers_of_pair = pair.answers - 2;  // rows of both
  const double prompt = pair.tokens - answers_of_pair;
  const double shared = pairs > run.ways ? pair.shared : 0;
  const double shared_spans = shared > 0 ? run.ways : 0;
  DeviceBatch batch;
  batch.pairs = pairs;
  batch.tokens = micro.tokens;
  batch.rows = predicting_rows(micro);
  batch.targets = micro.answers;
  batch.trees = shared > 0 ? run.ways : pairs;
  batch.shared = shared;
  batch.longest_prompt = pair.longest_prompt;
  batch.longest_answer = pair.longest_answer - 1;
  const double longest_rest = pair.longest_prompt - shared;
  // What pairs share is a span, and so are the rest of a prompt and each answer; an answer without
  // rows is none.
  const double with_rows = answers_of_pair > 0 ? 2 : 0;
  const double longest_keys = pair.longest_prompt + batch.longest_answer;
  const double keys_of_answers = with_rows * prompt + answers_of_pair;
  batch.all = {micro.tokens, pairs * (prompt + keys_of_answers) + shared_spans * shared,
               pairs * (1 + with_rows) + shared_spans,
               std::max({shared, longest_rest, batch.longest_answer}), longest_keys};
  batch.answers = {batch.rows, pairs * (prompt + keys_of_answers), pairs * (1 + with_rows),
                   std::max(1.0, batch.longest_answer), longest_keys};
  return batch;
}

// As rounded_size() and std::bit_ceil() (operators/sequence_layout.cpp).
double rounded(double size) {
  double step = 1;
  while (size > 8 * step) {
    step *= 2;
  }
  return up_to_multiple(size, step);
}

double power_of_2(double size) {
  return std::exp2(std::ceil(std::log2(size)));
}

// As pack_unsent() does: further parts, no longer than those that are there, whose first rows
// predict.
void fill_up(DeviceBatch& batch) {
  const double rows = rounded(batch.rows + 1);
  const double more_rows = rows - batch.rows;
  const double tokens = rounded(batch.tokens + more_rows);
  const double more_tokens = tokens - batch.tokens;
  const double parts = std::ceil(more_tokens / batch.all.longest_queries);
  const auto fill = [&](PaddedRows& padded, double queries) {
    padded.queries = queries;
    padded.keys = power_of_2(padded.keys + more_tokens);
    padded.spans = rounded(padded.spans + parts);
    padded.longest_queries = rounded(padded.longest_queries);
    padded.longest_keys = rounded(padded.longest_keys);
  };
  fill(batch.all, tokens);
  fill(batch.answers, rows);
  batch.targets = rounded(batch.targets + more_rows);
  batch.tokens = tokens;
  batch.rows = rows;
}

// The tables of one set of queries: places of queries and keys in the slots and back, the first and
// last key that a query sees, the mask, whose rows begin at multiples of 16, cosines and sines by
// half heads and by whole ones.
double tables_of(const PaddedRows& rows, double tokens, double head_size) {
  constexpr double kRowMultiple = 16;
  const double width = std::ceil(rows.longest_keys / kRowMultiple) * kRowMultiple;
  const double indices =
      3 * rows.query_slots() + rows.key_slots() + rows.queries + rows.keys + 2 * tokens + 1;
  return kIndex * indices + rows.query_slots() * width + 3 * rows.queries * head_size;
}

// The same for flash attention: the rows of keys and back, where the keys of a row and, in int32,
// the queries and keys of a span begin.
double joined_tables_of(const PaddedRows& rows, double tokens, double head_size) {
  return kIndex * (2 * rows.keys + tokens + 1) + 2 * (rows.spans + 1) +
         3 * rows.queries * head_size;
}

// One block over `rows` queries, with keys of all tokens.
class DeviceBlock {
 public:
  // `narrow`: products take and return bfloat16 where they can.
  DeviceBlock(const BlockPart& block, const DeviceBatch& batch, bool is_last, bool narrow,
              bool flash)
      : block_(block),
        batch_(batch),
        slots_(is_last ? batch.answers : batch.all),
        rows_(is_last ? batch.rows : batch.tokens),
        is_last_(is_last),
        narrow_(narrow ? 0.5 : 1),
        flash_(flash && block.allows_flash()) {}

  // Elements that its backward pass needs.
  double kept() const { return kept_before_mlp() + kept_by_mlp(); }

  // Most temporary elements of its backward pass, less those of its own kept ones that are free by
  // then.  The gradient of the residual stream is among them.
  double working() const {
    const double gradient = rows_ * block_.hidden;
    // d unit and the result of the unit's kernel; composed of libtorch's kernels it is more.
    const double of_mlp =
        gradient + rows_ * (1 + narrow_ * block_.mlp_inputs()) * block_.intermediate;
    return std::max(of_mlp, gradient + working_of_mixer() - kept_by_mlp());
  }

 private:
  double width() const { return block_.heads * block_.head_size; }
  double kv_width() const { return block_.kv_heads * block_.head_size; }

  // The input and the scale of a norm of `rows` rows of the residual stream.
  double norm(double rows) const { return rows * (block_.hidden + 1); }

  double kept_by_mlp() const {
    // In a parallel block both norms have the same input; in the last one the MLP's is a selection.
    const double input = block_.parallel && !is_last_ ? rows_ : norm(rows_);
    return (block_.input_norms ? input : 0) + rows_ * block_.mlp_inputs() * block_.intermediate +
           (block_.output_norms ? norm(rows_) : 0);
  }

  double kept_before_mlp() const {
    return (block_.input_norms ? norm(batch_.tokens) : 0) +
           (block_.is_recurrent() ? kept_by_recurrence() : kept_by_attention()) +
           (block_.output_norms ? norm(rows_) : 0);
  }

  // Norms of queries, keys and values are part of the rotation and keep the product that all of
  // them come from.
  double kept_by_head_norms() const {
    if (block_.query_key_norms == QueryKeyNorms::kNone && !block_.value_norms) {
      return 0;
    }
    return rows_ * width() + (block_.values_are_keys ? 1 : 2) * batch_.tokens * kv_width();
  }

  // Queries in slots, keys and values in slots for each query head; the fused operator keeps its
  // result and the normalisers, the composed one of capped scores these and the weights.  Flash
  // attention keeps queries, keys and values as they are, and the result, in bfloat16.
  double kept_by_attention() const {
    if (flash_) {
      return kept_by_head_norms() + rows_ * width() + batch_.tokens * kv_width() +
             block_.heads * rows_ + (block_.is_gated ? 2 * rows_ * width() : 0);
    }
    const double queries = slots_.query_slots() * width();
    const double result = block_.capped ? 2 * block_.heads * slots_.scores()
                                        : queries + block_.heads * slots_.query_slots();
    return kept_by_head_norms() + queries + 2 * slots_.key_slots() * width() + result +
           (block_.is_gated ? 2 * rows_ * width() : 0);
  }

  double heads_of_values() const { return block_.delta_values / block_.value_size; }
  double delta_columns() const { return 2 * block_.delta_keys + block_.delta_values; }

  // Rows of the longest chunk: two products with the others of its chunk are kept of every row.
  double chunk_rows() const {
    return std::min(kChunkRows, std::max({1.0, batch_.shared, batch_.longest_prompt - batch_.shared,
                                          batch_.longest_answer}));
  }

  // States with which chunks begin: those behind chunks that others follow.
  double states() const {
    const auto chunks = [](double rows) { return std::ceil(rows / kChunkRows); };
    const double rest = chunks(batch_.longest_prompt - batch_.shared);
    return (batch_.shared > 0 ? batch_.trees * chunks(batch_.shared) : 0) +
           batch_.pairs * (rest + 2 * std::max(0.0, chunks(batch_.longest_answer) - 1));
  }
  // Chunks that begin with one.
  double followers() const {
    const auto chunks = [](double rows) { return std::ceil(rows / kChunkRows); };
    const double all = (batch_.shared > 0 ? batch_.trees * chunks(batch_.shared) : 0) +
                       batch_.pairs * (chunks(batch_.longest_prompt - batch_.shared) +
                                       2 * chunks(batch_.longest_answer));
    return all - batch_.trees;
  }
  double state_size() const { return block_.delta_values * block_.key_size; }

  // What the input weight made, the mixed columns, sums of decays in float64, three more numbers
  // per head, the products of pairs of rows, the errors, the rule's result, the norm's scale, the
  // states.
  double kept_by_recurrence() const {
    const double tokens = batch_.tokens;
    const double heads = heads_of_values();
    return tokens * (2 * delta_columns() + 7 * heads + 2 * heads * chunk_rows() +
                     2 * block_.delta_values) +
           rows_ * (block_.delta_values + heads) + states() * state_size();
  }

  // The gradients of the input weight's result, the rule's result, the errors, queries and keys
  // (keys twice) for each head of values, the pairs' products, the states twice, the convolution.
  double working_of_recurrence() const {
    const double tokens = batch_.tokens;
    const double heads = heads_of_values();
    return narrow_ * (tokens * (delta_columns() + 2 * heads) + rows_ * block_.delta_values) +
           tokens * (2 * block_.delta_values + 3 * heads * block_.key_size + 2 * heads) +
           std::max(2 * tokens * heads * chunk_rows() + (states() + followers()) * state_size(),
                    tokens * delta_columns());
  }

  // Where the mixer's backward pass needs most.
  double working_of_mixer() const {
    if (block_.is_recurrent()) {
      return working_of_recurrence();
    }
    if (flash_) {
      return working_of_flash();
    }
    // Gradients of the result, the queries, and the keys and values for each query head; with a cap
    // those of the scores, too.
    const double queries = slots_.query_slots() * width();
    const double keys = slots_.key_slots() * width();
    return 2 * queries + 2 * keys + (block_.capped ? block_.heads * slots_.scores() : 0);
  }

  // The result's gradient in both types, the keys and values of all spans, the gradients of
  // queries, keys and values, the latter also for each query head; the softmax's sums, and the
  // parts of the queries' gradient.
  double working_of_flash() const {
    const double rows = rows_ + kFlashBlock * slots_.spans;
    const double size = up_to_multiple(block_.head_size, block_.head_size <= 128 ? 32 : 64);
    const double splits = std::ceil(kMultiprocessors / (slots_.spans * block_.heads));
    const double expanded = block_.heads == block_.kv_heads ? 0 : slots_.keys * width();
    return 2 * rows_ * width() + 2 * slots_.keys * kv_width() + expanded +
           block_.heads * rows * (1 + splits * size);
  }

  const BlockPart& block_;
  const DeviceBatch& batch_;
  const PaddedRows& slots_;
  double rows_;
  bool is_last_;
  double narrow_;  // elements of a result that may be bfloat16
  bool flash_;
};

// The head's own inputs and, while all blocks' activations are there, its working space: the
// logits of one block of its rows, or the rows of the targets.
double head_elements(const RankPart& part, const DeviceBatch& batch, const ElementBytes& bytes) {
  const double narrow = bytes.head / kActivationBytes;  // of an element
  const double outputs = batch.rows * part.hidden;
  const double columns = std::min(kHeadBlock, part.head / part.hidden);
  const bool casts = narrow < 1;
  const double logits = batch.rows * columns * (part.capped_head ? 3 : 1 + (casts ? narrow : 0));
  const double of_block = logits + (casts ? (1 + narrow) * outputs : 0);
  const double of_targets = (3 + (casts ? narrow : 0)) * batch.targets * part.hidden;
  // The blocks' output, which the final norm keeps, its result, and the mean of the head's rows.
  return 3 * outputs + std::max(of_block, of_targets);
}

}  // namespace

double device_activations(const RankPart& part, Range suffix, const RunShape& run) {
  DeviceBatch batch = batch_of(run);
  if (run.graphs) {
    fill_up(batch);
  }
  // Tokens, coefficients, rows and targets; the kept activations of the tokens.
  double alive = batch.tokens * (kIndex + 1 + kIndex) + 2 * kIndex * batch.targets +
                 kIndex * batch.rows + batch.tokens * part.hidden;
  std::vector<std::size_t> kinds;
  for (const BlockPart& block : part.blocks) {
    if (!block.is_recurrent() && std::find(kinds.begin(), kinds.end(), block.kind) == kinds.end()) {
      kinds.push_back(block.kind);
      const auto tables = run.flash && block.allows_flash() ? joined_tables_of : tables_of;
      alive += tables(batch.all, batch.tokens, block.head_size) +
               tables(batch.answers, batch.tokens, block.head_size);
    }
  }
  const double head = head_elements(part, batch, run.bytes);
  if (suffix.size() == 0) {
    return alive + head;
  }
  double kept = 0;
  double most = 0;
  for (std::int64_t i = suffix.begin; i < suffix.end; ++i) {
    const DeviceBlock block(part.blocks[static_cast<std::size_t>(i)], batch, i + 1 == suffix.end,
                            run.bytes.block < kActivationBytes, run.flash);
    kept += block.kept();
    most = std::max(most, kept + block.working());
  }
  return alive + std::max(most, kept + head);
}

}  // namespace bipo
