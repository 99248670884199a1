// Packs prompts with several answers each, pairs above all, into one batch of tokens without
// padding.
#pragma once

#include <ATen/core/Tensor.h>

#include <compare>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "datasets/tokens/token_pair.hpp"
#include "trainer/intervention/positions.hpp"
#include "trainer/model/decoder/decoder.hpp"
#include "trainer/model/operators/sequence_layout.hpp"

namespace bipo {

// P packed items, T packed tokens, U rows that predict, R scored answer tokens.

// One way of steering: a vector of the pass, the sign d and the factor that it is added with (or,
// with sign 0, that it is projected out), and the rows where it is.
struct SteeringChoice {
  std::int64_t vector = 0;
  std::int64_t sign = 0;
  double factor = 1;
  SteeredPositions positions = {};
  bool projects_out = false;
  auto operator<=>(const SteeringChoice&) const = default;
};

// A pair (or continuations) under one way of steering.  Items with equal `steering` are steered
// alike.
struct PackItem {
  std::int64_t pair = 0;
  SteeringChoice steering;
};

// A pair by itself is [prompt | chosen | rejected]: both answers attend to the prompt and to
// themselves, and their positions continue at the prompt's end.  The last token of an answer
// predicts nothing and is left out.  Items that are steered alike share the tokens that all their
// prompts begin with (the system prompt), as far as the same of these are steered: the batch is a
// forest, one tree [shared | rest of prompt, chosen, rejected | rest of prompt, ...] per way of
// steering, in ascending order.  Continuations
// have any number of answers instead of two.  Tokens of an answer that are not scored have rows
// like others, but are no targets.
struct PackedAnswers {
  at::Tensor ids;  // [T] int64
  SequenceLayout layout;
  at::Tensor row_of_target;  // [R] int64: among the U predicting rows, the one before the token
  at::Tensor targets;        // [R] int64: the scored answer tokens
  // [R] answers, counted item by item; of pairs: chosen, rejected, chosen, rejected, ...
  std::vector<std::int64_t> answer_of_target;
  std::vector<SteeringChoice> steering_of_token;  // [T]
  std::vector<bool> is_steered;                   // [T]: by the positions of its steering
  // A token's place in the packing of one of its items by itself.
  std::vector<std::int64_t> pair_of_token;    // [T]
  std::vector<std::int64_t> offset_of_token;  // [T]
  std::int64_t items = 0;                     // P
  std::int64_t answers = 0;                   // of all items

  std::int64_t tokens() const { return static_cast<std::int64_t>(pair_of_token.size()); }
};

// Two answers for each item: chosen, rejected.
using PackedPairs = PackedAnswers;

// Returns the number of tokens of a pair packed by itself; packed_sizes() returns that of each
// pair, its cost in a batch plan, and packed_offsets() [P + 1] their sums before each pair and over
// all.
std::int64_t packed_size(const TokenPair& pair);
std::vector<std::int64_t> packed_sizes(const std::vector<TokenPair>& pairs);
std::vector<std::int64_t> packed_offsets(const std::vector<TokenPair>& pairs);

// Returns for each of `pairs`, packed alike, the rows that hold its tokens in the order of its
// packing by itself; the pairs share the first rows.
std::vector<std::vector<std::int64_t>> rows_of_pairs(const PackedPairs& packed,
                                                     const std::vector<std::int64_t>& pairs);

// Adds tables that belong to packed items, so that they go to the device with those of the packing.
// Called when the items have their rows, and before any tensor of `packed` is there.
using AddTables = std::function<void(const PackedAnswers& packed, Upload& upload)>;

PackedPairs pack_pairs(const std::vector<TokenPair>& pairs, const std::vector<PackItem>& items,
                       const Decoder& decoder, const AddTables& add_tables = {});

// Pairs whose tables are not on the device yet.  They go there as upload.image(); upload.bind()
// says where they are, and finish() may then be called, both as often as the tables move.  Stays
// where it is: `upload` points into it.
struct UnsentPairs {
  PackedPairs packed;
  Upload upload;
  UnsentLayout layout;

  void finish() { packed.layout = layout.finish(); }
};

// The same before the tables are sent.  `rounds`: filled up such that the batch has one of a few
// shapes: T, U, R, spans, their queries and keys are a rounded_size() (numbers of keys in all, and
// bounds, a power of 2).  Rows that follow those of the items are sequences of their own and not
// steered; their targets follow all others as the chosen answer of one more item, P, which `items`
// does not count.  So no row of an item sees them, and where the loss of item P has no weight, they
// have no gradient.  For models without recurrent blocks.
std::shared_ptr<UnsentPairs> pack_unsent(const std::vector<TokenPair>& pairs,
                                         const std::vector<PackItem>& items, const Decoder& decoder,
                                         const AddTables& add_tables, bool rounds);

// Returns whether packing gives the pair a row at `positions`.
bool has_steered_row(const TokenPair& pair, const SteeredPositions& positions);

// Returns whether one of these rows predicts a scored token.  Behind the last block no row sees
// another, so that there only these rows matter.
bool has_steered_prediction(const TokenPair& pair, const SteeredPositions& positions);

// Packs the pairs (or continuations) `indices`, all steered alike.
PackedPairs pack_alike(const std::vector<TokenPair>& pairs,
                       const std::vector<std::int64_t>& indices, const Decoder& decoder,
                       const SteeredPositions& positions = {});
PackedAnswers pack_alike(const std::vector<Continuations>& continuations,
                         const std::vector<std::int64_t>& indices, const Decoder& decoder,
                         const SteeredPositions& positions = {});

PackedAnswers pack_continuations(const std::vector<Continuations>& continuations,
                                 const std::vector<PackItem>& items, const Decoder& decoder);

}  // namespace bipo
