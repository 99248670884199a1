#include "trainer/cost/forward_memory.hpp"

#include <algorithm>
#include <cmath>

#include "trainer/cost/rank_part.hpp"

namespace bipo {
namespace {

// The columns of the logits that are there at one time.
double columns_of_head(const RankPart& part) {
  return std::min(kHeadBlock, part.head / part.hidden);
}

// While the MLP's output is added: the stream before and behind attention and behind the MLP, gate
// and up, and the unit, which is the next product's operand.
double mlp_bytes(const BlockPart& block, const ElementBytes& bytes, double tokens) {
  return tokens * (3 * block.hidden * kActivationBytes +
                   block.intermediate * (block.mlp_inputs() * kActivationBytes + bytes.block));
}

// `blocks`: those that all T tokens run through.
double most_mlp_bytes(const RankPart& part, Range blocks, const ElementBytes& bytes,
                      double tokens) {
  return part.most(blocks, [&](const BlockPart& block) { return mlp_bytes(block, bytes, tokens); });
}

// When attention's result is there in slots: the stream before the block, the products of queries,
// keys and values, the queries and keys that were turned, and what the slots hold.
double slots_bytes(const BlockPart& block, const BlockRows& rows) {
  const double width = block.heads * block.head_size;
  const double kv_width = block.kv_heads * block.head_size;
  const double products = width + (block.values_are_keys ? 1 : 2) * kv_width;
  const double query_slots = rows.spans * rows.longest_queries;
  const double key_slots = rows.spans * rows.longest_keys;
  const double scores = block.capped ? 2 * block.heads * query_slots * rows.longest_keys : 0;
  return kActivationBytes * (rows.tokens * (block.hidden + products + width + kv_width) +
                             2 * (query_slots + key_slots) * width + scores);
}

}  // namespace

bool ForwardBatch::is_within(const ForwardBatch& other) const {
  return tokens <= other.tokens && scored <= other.scored;
}

bool BlockRows::is_within(const BlockRows& others) const {
  return tokens <= others.tokens && spans <= others.spans &&
         longest_queries <= others.longest_queries && longest_keys <= others.longest_keys;
}

void BlockRows::add_sequence(double length) {
  tokens += length;
  ++spans;
  longest_queries = std::max(longest_queries, length);
  longest_keys = std::max(longest_keys, length);
}

BlockRows rows_of_pack(const std::vector<TokenPair>& pairs) {
  const TokenCounts mean = mean_pair(pairs);
  const auto count = static_cast<double>(pairs.size());
  BlockRows rows;
  rows.tokens = std::round(count * mean.tokens - (count - 1) * mean.shared);
  // A span is what the pairs share, the rest of a prompt, and an answer without its last token.
  const auto add_span = [&](double queries, double keys) {
    rows.spans += queries > 0 ? 1 : 0;
    rows.longest_queries = std::max(rows.longest_queries, queries);
    rows.longest_keys = std::max(rows.longest_keys, keys);
  };
  add_span(mean.shared, mean.shared);
  for (const TokenPair& pair : pairs) {
    const auto prompt = static_cast<double>(pair.prompt.size());
    add_span(prompt - mean.shared, prompt);
    for (const std::vector<TokenId>* answer : {&pair.chosen, &pair.rejected}) {
      const double queries = static_cast<double>(answer->size()) - 1;
      add_span(queries, queries > 0 ? prompt + queries : 0);
    }
  }
  return rows;
}

std::vector<double> least_block_bytes(const ModelConfig& config, std::int64_t tp,
                                      const ElementBytes& bytes, const BlockRows& rows,
                                      bool flash) {
  std::vector<double> least;
  for (const BlockPart& block : largest_part(config, tp).blocks) {
    const bool has_slots = !block.is_recurrent() && (block.capped || !flash);
    least.push_back(
        std::max(mlp_bytes(block, bytes, rows.tokens), has_slots ? slots_bytes(block, rows) : 0));
  }
  return least;
}

double least_logits_bytes(const ModelConfig& config, std::int64_t tp, double rows) {
  const RankPart part = largest_part(config, tp);
  // Parts of several ranks are there side by side before they are joined.
  const double whole = tp > 1 ? 2 * static_cast<double>(config.vocabulary) : 0;
  return rows * kActivationBytes * (part.hidden + part.head / part.hidden + whole);
}

double least_scoring_bytes(const ModelConfig& config, std::int64_t tp, const ElementBytes& bytes,
                           const ForwardBatch& batch) {
  const RankPart part = largest_part(config, tp);
  // The stream behind the first blocks waits for the next setting; output and its norm.
  const double head = (batch.tokens + 2 * batch.scored) * part.hidden * kActivationBytes +
                      batch.scored * columns_of_head(part) * kActivationBytes;
  if (config.blocks < 2) {  // the last block runs over the rows that predict
    return head;
  }
  return std::max(head, most_mlp_bytes(part, {0, config.blocks - 1}, bytes, batch.tokens));
}

double least_divergence_bytes(const ModelConfig& config, std::int64_t tp, const ElementBytes& bytes,
                              double tokens, double settings) {
  if (settings == 0) {
    return 0;
  }
  const RankPart part = largest_part(config, tp);
  const double stream = tokens * part.hidden * kActivationBytes;
  const double in_blocks =
      settings * stream + most_mlp_bytes(part, {0, config.blocks}, bytes, tokens);
  constexpr double kWide = 8;  // float64
  const double logits = 5 * kWide * tokens * columns_of_head(part);
  const double normed = tokens * part.hidden * bytes.block;
  return std::max(in_blocks, (settings + 1) * (stream + normed) + logits);
}

}  // namespace bipo
