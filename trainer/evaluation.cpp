#include "trainer/evaluation.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "trainer/pair_scores.hpp"

namespace bipo {
namespace {

// Log-probabilities of all pairs with `coefficient` times `vector` added.
std::vector<AnswerLogProbs> score_all(const Decoder& decoder, const ActivationCache& cache,
                                      const at::Tensor& vector, double coefficient,
                                      const Ranks& ranks) {
  const auto pairs = static_cast<std::int64_t>(cache.pairs().size());
  const at::Tensor log_probs =
      at::zeros({pairs, 2}, at::TensorOptions().dtype(at::kDouble).device(decoder.device()));
  const auto& groups = cache.groups();
  for (auto g = static_cast<std::size_t>(ranks.topology.dp_rank()); g < groups.size();
       g += static_cast<std::size_t>(ranks.topology.dp())) {
    const PackedPairs packed = pack_pairs(cache.pairs(), groups[g], decoder);
    const Steering steering{cache.layer(),
                            at::full({packed.tokens()}, coefficient, vector.options()), vector};
    const PairScores scores = score_pairs(decoder, packed, cache.activations(groups[g]), steering);
    std::vector<double> values;
    for (const AnswerLogProbs& answer : scores.answers) {
      values.insert(values.end(), {answer.chosen, answer.rejected});
    }
    log_probs.narrow(0, groups[g].front(), packed.pairs)
        .copy_(at::tensor(values, at::kDouble).view({packed.pairs, 2}));
  }
  // Every element is non-zero on one replica only: the sum is exact in any order.
  ranks.dp->all_reduce(log_probs, ReduceOp::kSum);
  const at::Tensor on_host = log_probs.cpu();
  const auto values = on_host.accessor<double, 2>();
  std::vector<AnswerLogProbs> result;
  for (std::int64_t p = 0; p < pairs; ++p) {
    result.push_back({values[p][0], values[p][1]});
  }
  return result;
}

EvalRow summarize(const std::vector<AnswerLogProbs>& policy,
                  const std::vector<AnswerLogProbs>& reference, double multiplier, double beta) {
  EvalRow row;
  row.multiplier = multiplier;
  row.pairs = static_cast<double>(policy.size());
  for (std::size_t p = 0; p < policy.size(); ++p) {
    const PairObjective objective = pair_objective(policy[p], reference[p], /*direction=*/1, beta);
    row.loss += objective.loss / row.pairs;
    row.margin += objective.margin / row.pairs;
    row.accuracy += (policy[p].chosen > policy[p].rejected ? 1 : 0) / row.pairs;
    row.chosen_logp += policy[p].chosen / row.pairs;
    row.rejected_logp += policy[p].rejected / row.pairs;
  }
  return row;
}

}  // namespace

std::vector<EvalRow> evaluate_pairs(const Decoder& decoder, const ActivationCache& cache,
                                    const std::vector<float>& vector,
                                    const std::vector<double>& multipliers, double beta,
                                    const Ranks& ranks) {
  const at::NoGradGuard no_grad;
  const at::Tensor on_device =
      at::tensor(vector, at::kFloat)
          .to(at::TensorOptions().dtype(decoder.residual_type()).device(decoder.device()));
  std::vector<EvalRow> rows;
  for (const double multiplier : multipliers) {
    const auto policy = multiplier == 0 ? cache.reference()
                                        : score_all(decoder, cache, on_device, multiplier, ranks);
    rows.push_back(summarize(policy, cache.reference(), multiplier, beta));
  }
  return rows;
}

}  // namespace bipo
