// Computes accuracy and probability of multiple-choice items from the log-probabilities of their
// choices.  Local.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "experiments/evaluation/statistics.hpp"

namespace bipo {

struct ChoiceItem;  // datasets/rows/choice_items.hpp

struct ChoiceScore {
  // The likeliest right choice is likelier than every wrong one (a tie is a miss): A/B's m_LD > 0
  // (CAA), TruthfulQA's MC1, MMLU's accuracy.
  bool correct = false;
  // Probability of the right choices / probability of all: A/B's p+ / (p+ + p-), TruthfulQA's MC2,
  // the right letter's share among MMLU's letters.
  double probability = 0;
};

// `logp[i]`: summed log-probability of the item's choices[i] after its prompt, in nats.
ChoiceScore score_choices(const ChoiceItem& item, std::span<const double> logp);

struct ChoiceSummary {
  std::int64_t items = 0;
  Interval accuracy;
  Interval probability;
  double macro_accuracy = 0;  // mean over the subjects of their accuracies
};

// `subjects[i]`: the subject of `scores[i]`.  With one subject, macro_accuracy is the accuracy.
ChoiceSummary summarize_choices(std::span<const ChoiceScore> scores,
                                std::span<const std::string> subjects, std::uint64_t seed);

}  // namespace bipo
