// What one rank of a model holds and computes, block by block.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "trainer/cost/cost.hpp"
#include "trainer/model/sharding/sharding.hpp"

namespace bipo {

// Activations are fp32 for every type of weights.
constexpr double kActivationBytes = 4;

// Counts the rows that predict: the prompt's last token predicts the first of both answers.
inline double predicting_rows(const TokenCounts& micro) {
  return micro.answers - micro.pairs;
}

// The scores again, then the gradients of weights, values, queries and keys: ten for every four of
// the forward pass.
constexpr double kAttentionBackward = 2.5;

// The products among a chunk's rows again, then six products with states for every three of the
// forward pass.
constexpr double kRecurrenceBackward = 2.2;

// Rows of the head that are multiplied at a time on a device (operators/head.cpp).
constexpr double kHeadBlock = 32768;

// Rows of a chunk of the recurrence (trainer/model/operators), if sequences are long enough.
constexpr double kChunkRows = 64;

// The largest share of one block that any rank of a group has.
struct BlockPart {
  std::size_t kind;  // of attention, an index in ModelConfig::attention_kinds
  double hidden;
  double head_size;
  double heads;
  double kv_heads;
  double intermediate;
  bool values_are_keys;
  QueryKeyNorms query_key_norms;
  bool value_norms;
  bool input_norms;
  bool output_norms;
  bool parallel;  // attention beside the MLP
  bool capped;    // scores have a soft cap
  bool scaled;    // what attention and MLP add has a factor
  bool is_gated;  // attention with gates
  bool gated_mlp;
  // A recurrent block has no attention but, 0 elsewhere, the sizes of a head, columns of all
  // queries (and of all keys), and of all values.
  double key_size;
  double value_size;
  double delta_keys;
  double delta_values;
  // Elements of its weights (see BlockElements).
  double matrices;
  double vectors;

  // 2 operations per parameter and token.
  double product_operations(const TokenCounts& micro) const { return 2 * matrices * micro.tokens; }

  // The same for the last block, which treats most rows as keys only.
  double product_operations_as_last(const TokenCounts& micro) const {
    const double products = values_are_keys ? 1 : 2;
    const double of_every_row = is_recurrent() ? hidden * (2 * delta_keys + delta_values)
                                               : products * (hidden * head_size) * kv_heads;
    return 2 * (of_every_row * micro.tokens + (matrices - of_every_row) * predicting_rows(micro));
  }

  bool is_recurrent() const { return value_size > 0; }

  // Elements for each of the I columns: those that the activation takes, gate and up or up alone,
  // and those that it reads or writes, forward and backward.
  double mlp_inputs() const { return gated_mlp ? 2 : 1; }
  double mlp_moves() const { return gated_mlp ? 8 : 5; }

  // Every token and head of values takes part in three products with the state, and those with the
  // other rows of its chunk, whose queries and keys the heads of values share.
  double recurrence_operations(const TokenCounts& micro) const {
    if (!is_recurrent()) {
      return 0;
    }
    const double heads_of_values = delta_values / value_size;
    return micro.tokens *
           (heads_of_values * (6 * key_size * value_size + 3 * kChunkRows * value_size) +
            4 * kChunkRows * delta_keys);
  }

  // q k^T and its product with v: 4 H K operations per key that a query sees.
  double attention_operations(const TokenCounts& micro) const {
    return 4 * heads * head_size * micro.seen_keys;
  }

  // On a CPU, elements that the backward pass needs per token: the inputs of both norms (2 D) and
  // their scales, queries, keys and values before rotation, rotated queries and keys with each
  // query's normaliser, and gate and up.  Norms of heads, and of what attention and MLP add, keep
  // their inputs too; gates their attention's result and themselves.  Frozen weights need no input.
  // A recurrent block keeps its products' results, the mixed columns, the corrections, the states
  // of its chunks and what the gates' norm takes.
  double kept_per_token() const {
    if (is_recurrent()) {
      const double columns = 2 * delta_keys + delta_values;
      return 2 * hidden + 2 + 2 * columns + 5 * delta_values +
             delta_values * key_size / kChunkRows + mlp_inputs() * intermediate;
    }
    const double products = (heads + (values_are_keys ? 1 : 2) * kv_heads) * head_size;
    return 2 * hidden + 2 + (2 * heads + 3 * kv_heads) * head_size + heads +
           mlp_inputs() * intermediate + (query_key_norms != QueryKeyNorms::kNone ? products : 0) +
           (output_norms ? 2 * hidden : 0) + (is_gated ? 3 * heads * head_size : 0);
  }

  // On a CPU, most temporary elements per token: the gradients of gate and up with that of their
  // product, and of the residual stream before and after.
  double working_per_token() const { return (mlp_inputs() + 1) * intermediate + 4 * hidden; }

  // Most elements per token where it only runs forward: gate and up with their product, and the
  // residual stream before and after.
  double forward_per_token() const { return (mlp_inputs() + 1) * intermediate + 2 * hidden; }

  // Elements per token that its norms, rotations, additions and SwiGLU read or write, forward and
  // backward.
  double moved_per_token() const {
    if (is_recurrent()) {
      return 20 * hidden + 20 * delta_values + mlp_moves() * intermediate;
    }
    return (is_gated ? 10 * heads * head_size : 0) + 20 * hidden +
           6 * (heads + 2 * kv_heads) * head_size + mlp_moves() * intermediate;
  }

  double bytes(const ElementBytes& element) const {
    return matrices * element.block + vectors * kActivationBytes;
  }

  // As runs_flash_attention() in trainer/model/operators, on a device that has it.
  bool allows_flash() const;

  // As the simulated device counts them; `narrow`: products are of bfloat16, `flash`: blocks that
  // allow it run flash attention.
  DeviceKernels device_kernels(bool narrow, bool flash) const;
};

// The largest share of each kind of work that any rank of a group has.
struct RankPart {
  double hidden;
  std::vector<BlockPart> blocks;  // [N]
  // Elements of its weights (see OuterElements).
  double vectors;
  double embedding;
  double head;
  bool capped_head;  // logits have a soft cap

  // Returns the sum of of_block(part of the block) over `range`.
  template <class Quantity>
  double sum(Range range, const Quantity& of_block) const {
    double total = 0;
    for (std::int64_t i = range.begin; i < range.end; ++i) {
      total += of_block(blocks[static_cast<std::size_t>(i)]);
    }
    return total;
  }

  // Returns the largest of_block(part of the block) in `range`, 0 if that is empty.
  template <class Quantity>
  double most(Range range, const Quantity& of_block) const {
    double most = 0;
    for (std::int64_t i = range.begin; i < range.end; ++i) {
      most = std::max(most, of_block(blocks[static_cast<std::size_t>(i)]));
    }
    return most;
  }

  double matrices(Range range) const {
    return sum(range, [](const BlockPart& block) { return block.matrices; });
  }

  double moved_per_token(Range range) const {
    return sum(range, [](const BlockPart& block) { return block.moved_per_token(); });
  }

  // `suffix` ends with the last block.
  Operations forward(Range suffix, const TokenCounts& micro) const {
    Operations work{0, 0, 2 * head * predicting_rows(micro)};
    if (suffix.size() == 0) {
      return work;
    }
    const Range before_last = {suffix.begin, suffix.end - 1};
    const BlockPart& last = blocks.back();
    work.products =
        sum(before_last, [&](const BlockPart& b) { return b.product_operations(micro); }) +
        last.product_operations_as_last(micro);
    work.recurrence =
        sum(suffix, [&](const BlockPart& b) { return b.recurrence_operations(micro); });
    work.attention =
        sum(before_last, [&](const BlockPart& b) { return b.attention_operations(micro); }) +
        last.attention_operations(micro) * (predicting_rows(micro) / micro.tokens);
    return work;
  }

  Operations step(Range suffix, const TokenCounts& micro) const {
    Operations work = forward(suffix, micro);
    work.products *= 2;
    work.attention *= 1 + kAttentionBackward;
    work.recurrence *= 1 + kRecurrenceBackward;
    work.head *= 2;
    return work;
  }

  Operations prefix(Range range, const TokenCounts& pair) const {
    return {sum(range, [&](const BlockPart& b) { return b.product_operations(pair); }),
            sum(range, [&](const BlockPart& b) { return b.attention_operations(pair); }), 0,
            sum(range, [&](const BlockPart& b) { return b.recurrence_operations(pair); })};
  }

  // On a CPU, elements that the backward pass of the suffix needs, and its most temporary ones.
  double activations(Range suffix, const TokenCounts& micro) const {
    if (suffix.size() == 0) {
      return blocks.back().working_per_token() * micro.tokens;
    }
    const auto kept = [](const BlockPart& block) { return block.kept_per_token(); };
    const double rows = predicting_rows(micro);
    return (sum({suffix.begin, suffix.end - 1}, kept) +
            kept(blocks.back()) * (rows / micro.tokens) +
            most(suffix, [](const BlockPart& block) { return block.working_per_token(); })) *
           micro.tokens;
  }
};

// Returns the parts of the ranks of a group of tp: mostly the first rank's, but a later one may
// straddle two groups of query heads and hold a key/value head more.
RankPart largest_part(const ModelConfig& config, std::int64_t tp);

}  // namespace bipo
