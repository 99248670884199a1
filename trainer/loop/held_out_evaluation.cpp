#include "trainer/loop/held_out_evaluation.hpp"

#include <ATen/ATen.h>

#include "trainer/objective/objective.hpp"
#include "trainer/passes/pair_scores.hpp"
#include "trainer/passes/steering.hpp"

namespace bipo {
namespace {

// `complements`: of each pair, or none.
EvalRow summarize(const std::vector<TokenPair>& pairs, const std::vector<AnswerLogProbs>& policy,
                  const std::vector<AnswerLogProbs>& complements,
                  const std::vector<AnswerLogProbs>& reference, double multiplier,
                  const Objective& objective) {
  EvalRow row;
  row.multiplier = multiplier;
  row.pairs = static_cast<double>(policy.size());
  for (std::size_t p = 0; p < policy.size(); ++p) {
    const AnswerTokens tokens = answer_tokens(pairs[p]);
    const PairObjective found =
        pair_objective(objective, policy[p], reference[p], tokens, /*direction=*/1,
                       complements.empty() ? AnswerLogProbs{} : complements[p]);
    const AnswerLogProbs answers = reduced(objective, policy[p], tokens);
    row.loss += found.loss / row.pairs;
    row.margin += found.margin / row.pairs;
    row.accuracy += (answers.chosen > answers.rejected ? 1 : 0) / row.pairs;
    row.chosen_logp += policy[p].chosen / row.pairs;
    row.rejected_logp += policy[p].rejected / row.pairs;
  }
  return row;
}

}  // namespace

HeldOutEvaluation evaluate_pairs(const ScoringContext& context, const ActivationCache& held_out,
                                 const SteeredLayers& layers, const std::vector<float>& vector,
                                 const std::vector<double>& multipliers, const Objective& objective,
                                 const SteeredPositions& positions) {
  const at::Tensor on_device = at::tensor(vector, at::kFloat).to(residual_options(context.decoder));
  const std::vector<AnswerLogProbs>& reference = held_out.reference(layers.lowest());
  HeldOutEvaluation evaluation;
  for (const double multiplier : multipliers) {
    const bool has_complements = uses_complements(objective.kind);
    std::vector<AnswerLogProbs> complements;
    std::vector<AnswerLogProbs> policy = reference;
    if (multiplier != 0 || has_complements) {
      policy = held_out.score(context, layers, on_device, multiplier, positions,
                              has_complements ? &complements : nullptr);
    }
    evaluation.rows.push_back(
        summarize(held_out.pairs(), policy, complements, reference, multiplier, objective));
    for (std::size_t p = 0; p < policy.size(); ++p) {
      evaluation.samples.push_back(
          {0, 0, multiplier, static_cast<std::int64_t>(p), policy[p].chosen, policy[p].rejected});
    }
  }
  return evaluation;
}

}  // namespace bipo
