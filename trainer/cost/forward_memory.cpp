#include "trainer/cost/forward_memory.hpp"

#include <algorithm>

#include "trainer/cost/rank_part.hpp"

namespace bipo {
namespace {

// The columns of the logits that are there at one time.
double columns_of_head(const RankPart& part) {
  return std::min(kHeadBlock, part.head / part.hidden);
}

// While the MLP's output is added: the stream before and behind attention and behind the MLP, gate
// and up, and the unit, which is the next product's operand.  `blocks`: those that all T tokens run
// through.
double block_bytes(const RankPart& part, Range blocks, const ElementBytes& bytes, double tokens) {
  return part.most(blocks, [&](const BlockPart& block) {
    return tokens * (3 * part.hidden * kActivationBytes +
                     block.intermediate * (block.mlp_inputs() * kActivationBytes + bytes.block));
  });
}

}  // namespace

double least_scoring_bytes(const ModelConfig& config, std::int64_t tp, const ElementBytes& bytes,
                           const ForwardBatch& batch) {
  const RankPart part = largest_part(config, tp);
  // The stream behind the first blocks waits for the next setting; output and its norm.
  const double head = (batch.tokens + 2 * batch.scored) * part.hidden * kActivationBytes +
                      batch.scored * columns_of_head(part) * kActivationBytes;
  if (config.blocks < 2) {  // the last block runs over the rows that predict
    return head;
  }
  return std::max(head, block_bytes(part, {0, config.blocks - 1}, bytes, batch.tokens));
}

double least_divergence_bytes(const ModelConfig& config, std::int64_t tp, const ElementBytes& bytes,
                              double tokens, double settings) {
  if (settings == 0) {
    return 0;
  }
  const RankPart part = largest_part(config, tp);
  const double stream = tokens * part.hidden * kActivationBytes;
  const double in_blocks = settings * stream + block_bytes(part, {0, config.blocks}, bytes, tokens);
  constexpr double kWide = 8;  // float64
  const double logits = 5 * kWide * tokens * columns_of_head(part);
  const double normed = tokens * part.hidden * bytes.block;
  return std::max(in_blocks, (settings + 1) * (stream + normed) + logits);
}

}  // namespace bipo
