// Computes accuracy and probability of multiple-choice items from the log-probabilities of their
// choices.
#include "experiments/evaluation/choice_scores.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "collectives/foundation/errors.hpp"
#include "datasets/rows/choice_items.hpp"

namespace bipo {
namespace {

double macro_accuracy(std::span<const ChoiceScore> scores, std::span<const std::string> subjects) {
  std::map<std::string, std::vector<double>> correct;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    correct[subjects[i]].push_back(scores[i].correct ? 1 : 0);
  }
  std::vector<double> accuracies;
  for (const auto& [subject, values] : correct) {
    accuracies.push_back(mean(values));
  }
  return mean(accuracies);
}

}  // namespace

ChoiceScore score_choices(const ChoiceItem& item, std::span<const double> logp) {
  if (logp.size() != item.choices.size()) {
    throw BugError(fmt::format("{}: {} log-probabilities for {} choices", item.where, logp.size(),
                               item.choices.size()));
  }
  constexpr double kNever = -std::numeric_limits<double>::infinity();
  double best_right = kNever;
  double best_wrong = kNever;
  double largest = kNever;
  for (std::size_t i = 0; i < logp.size(); ++i) {
    const Choice& choice = item.choices[i];
    if (choice.in_mc1) {
      double& best = choice.right ? best_right : best_wrong;
      best = std::max(best, logp[i]);
    }
    if (choice.in_mc2) {
      largest = std::max(largest, logp[i]);
    }
  }
  double right = 0;
  double all = 0;
  for (std::size_t i = 0; i < logp.size(); ++i) {
    if (item.choices[i].in_mc2) {
      // Whole answers underflow as probabilities, but not relative to the likeliest.
      const double share = std::exp(logp[i] - largest);
      right += item.choices[i].right ? share : 0;
      all += share;
    }
  }
  return {best_right > best_wrong, right / all};
}

ChoiceSummary summarize_choices(std::span<const ChoiceScore> scores,
                                std::span<const std::string> subjects, std::uint64_t seed) {
  if (scores.size() != subjects.size()) {
    throw BugError(fmt::format("{} scores for {} subjects", scores.size(), subjects.size()));
  }
  std::vector<double> correct;
  std::vector<double> probabilities;
  for (const ChoiceScore& score : scores) {
    correct.push_back(score.correct ? 1 : 0);
    probabilities.push_back(score.probability);
  }
  ChoiceSummary summary;
  summary.items = static_cast<std::int64_t>(scores.size());
  summary.accuracy = bootstrap_mean(correct, seed);
  summary.probability = bootstrap_mean(probabilities, seed);
  summary.macro_accuracy = macro_accuracy(scores, subjects);
  return summary;
}

}  // namespace bipo
