#include "trainer/loop/evaluation.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "trainer/passes/pair_scores.hpp"

namespace bipo {
namespace {

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
                                    std::int64_t layer, const std::vector<float>& vector,
                                    const std::vector<double>& multipliers, double beta,
                                    const Ranks& ranks) {
  const at::NoGradGuard no_grad;
  const at::Tensor on_device =
      at::tensor(vector, at::kFloat)
          .to(at::TensorOptions().dtype(decoder.residual_type()).device(decoder.device()));
  const auto hidden = [&](const PackedPairs& packed) {
    return cache.activations(decoder, packed, layer);
  };
  const PairGroups set{cache.pairs(), cache.groups(), hidden};
  std::vector<EvalRow> rows;
  for (const double multiplier : multipliers) {
    const auto policy = multiplier == 0 ? cache.reference(layer)
                                        : score_groups(decoder, set, layer, on_device, multiplier,
                                                       ranks, [](std::int64_t, std::int64_t) {});
    rows.push_back(summarize(policy, cache.reference(layer), multiplier, beta));
  }
  return rows;
}

}  // namespace bipo
