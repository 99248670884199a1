#include "trainer/loop/held_out_evaluation.hpp"

#include <ATen/ATen.h>

#include "trainer/passes/objective.hpp"
#include "trainer/passes/steering.hpp"

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

HeldOutEvaluation evaluate_pairs(const ScoringContext& context, const ActivationCache& held_out,
                                 std::int64_t layer, const std::vector<float>& vector,
                                 const std::vector<double>& multipliers, double beta) {
  const at::Tensor on_device = at::tensor(vector, at::kFloat).to(residual_options(context.decoder));
  const std::vector<AnswerLogProbs>& reference = held_out.reference(layer);
  HeldOutEvaluation evaluation;
  for (const double multiplier : multipliers) {
    const auto policy =
        multiplier == 0 ? reference : held_out.score(context, layer, on_device, multiplier);
    evaluation.rows.push_back(summarize(policy, reference, multiplier, beta));
    for (std::size_t p = 0; p < policy.size(); ++p) {
      evaluation.samples.push_back(
          {0, 0, multiplier, static_cast<std::int64_t>(p), policy[p].chosen, policy[p].rejected});
    }
  }
  return evaluation;
}

}  // namespace bipo
