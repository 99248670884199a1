#include "trainer/passes/pair_scores.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "trainer/passes/steering.hpp"

namespace bipo {

PairScores score_pairs(const Decoder& decoder, const PackedPairs& packed, const at::Tensor& hidden,
                       const Steering& steering) {
  const ResidualStream steered = run_past_sites(
      {hidden, steering.layer + 1}, {steering.layer},
      [&](const at::Tensor& h, std::int64_t) {
        return steer(h, steering.coefficients, steering.vectors);
      },
      [&](const at::Tensor& h, Range blocks) {
        return decoder.run_blocks(h, blocks, packed.layout);
      });
  return score_output(decoder, packed,
                      decoder.run_to_answers(steered.hidden, steered.next_block, packed.layout));
}

PairScores score_output(const Decoder& decoder, const PackedPairs& packed,
                        const at::Tensor& output) {
  PairScores scores;
  scores.target_log_probs =
      decoder.next_token_log_probs(output, packed.row_of_target, packed.targets);
  const at::Tensor on_host = scores.target_log_probs.detach().to(at::kCPU, at::kDouble);
  const double* log_prob = on_host.const_data_ptr<double>();
  scores.answers.resize(static_cast<std::size_t>(packed.items));
  for (std::size_t r = 0; r < packed.answer_of_target.size(); ++r) {
    const std::int64_t answer = packed.answer_of_target[r];
    AnswerLogProbs& item = scores.answers[static_cast<std::size_t>(answer / 2)];
    (answer % 2 == 0 ? item.chosen : item.rejected) += log_prob[r];
  }
  return scores;
}

at::Tensor run_prefix(const Decoder& decoder, const PackedPairs& packed, std::int64_t layer) {
  const at::NoGradGuard no_grad;
  return decoder.run_blocks(decoder.embed(packed.ids), {0, layer + 1}, packed.layout);
}

std::vector<AnswerLogProbs> score_groups(const Decoder& decoder, const PairGroups& set,
                                         std::int64_t layer, const at::Tensor& vector,
                                         double coefficient, const Ranks& ranks,
                                         const Progress& progress) {
  const at::NoGradGuard no_grad;
  const auto count = static_cast<std::int64_t>(set.groups.size());
  const std::int64_t replicas = ranks.topology.dp();
  std::vector<double> values(2 * set.pairs.size(), 0.0);
  for (std::int64_t g = ranks.topology.dp_rank(); g < count; g += replicas) {
    const auto& group = set.groups[static_cast<std::size_t>(g)];
    const PackedPairs packed = pack_alike(set.pairs, group, decoder);
    const Steering steering{layer, at::full({1, packed.tokens()}, coefficient, vector.options()),
                            vector.unsqueeze(0)};
    const PairScores scores = score_pairs(decoder, packed, set.hidden(packed), steering);
    for (std::size_t i = 0; i < group.size(); ++i) {
      const auto pair = static_cast<std::size_t>(group[i]);
      values[2 * pair] = scores.answers[i].chosen;
      values[2 * pair + 1] = scores.answers[i].rejected;
    }
    progress(std::min(count, g + replicas), count);
  }
  return gather_answers(values, decoder.device(), ranks);
}

std::vector<double> gather_values(const std::vector<double>& values, at::Device device,
                                  const Ranks& ranks) {
  const at::Tensor table = at::tensor(values, at::kDouble).to(device);
  // Every element is non-zero on one replica only: the sum is exact in any order.
  ranks.dp->all_reduce(table, ReduceOp::kSum);
  // The tp ranks' values may differ in the last bits; what is derived from them must not.
  ranks.tp->broadcast(table, 0);
  const at::Tensor on_host = table.cpu();
  const double* all = on_host.const_data_ptr<double>();
  return {all, all + on_host.numel()};
}

std::vector<AnswerLogProbs> gather_answers(const std::vector<double>& values, at::Device device,
                                           const Ranks& ranks) {
  const std::vector<double> all = gather_values(values, device, ranks);
  std::vector<AnswerLogProbs> result;
  for (std::size_t i = 0; i + 1 < all.size(); i += 2) {
    result.push_back({all[i], all[i + 1]});
  }
  return result;
}

}  // namespace bipo
