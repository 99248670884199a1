// Computes the rows of an evaluation file from log-probabilities.  Local: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "experiments/evaluation/evaluation_file.hpp"
#include "experiments/evaluation/generations_file.hpp"

namespace bipo {

// A pair's answers under one setting of vectors.
struct PairLogProbs {
  double chosen = 0;  // nats, summed over the tokens
  double rejected = 0;
  std::int64_t chosen_tokens = 0;
  std::int64_t rejected_tokens = 0;

  double propensity() const { return chosen - rejected; }
};

// P pairs at M multipliers of one direction.
struct DirectionScores {
  std::string direction;
  double norm = 0;
  std::vector<double> multipliers;               // [M], at least two, all different
  std::vector<std::vector<PairLogProbs>> pairs;  // [M][P]
};

struct MarginSettings {
  double beta = 0.1;
  std::uint64_t seed = 11;  // of the bootstrap
};

// Adds a direction to the tables curve, steerability and samples.  `reference` [P]: the model
// without vectors.
void add_direction(Evaluation& evaluation, const DirectionScores& scores,
                   const std::vector<PairLogProbs>& reference, const MarginSettings& settings);

GridRow grid_row(double multiplier_1, double multiplier_2, const std::vector<PairLogProbs>& pairs,
                 const std::vector<PairLogProbs>& reference, const MarginSettings& settings);

// Adds the pairs of one combination of multipliers to the table grid_samples.
void add_grid_samples(Evaluation& evaluation, double multiplier_1, double multiplier_2,
                      const std::vector<PairLogProbs>& pairs);

// Identifies a row of the table costs.
struct CostPlace {
  std::string measure;
  std::string direction;
  double multiplier = 0;
};

// A quantity summed over an item's tokens.
struct TokenSum {
  double sum = 0;
  std::int64_t tokens = 0;  // > 0
};

// Returns exp(-sum of log-probabilities / tokens) over all items.
CostRow perplexity_row(const CostPlace& place, std::span<const TokenSum> log_probs,
                       std::uint64_t seed);

// Returns sum / tokens over all items.
CostRow mean_per_token_row(const CostPlace& place, std::span<const TokenSum> values,
                           std::uint64_t seed);

// Returns distinct_1 to 3, compression_ratio and refusal_rate of the texts at each multiplier,
// ascending; leaves a measure out where no text is long enough for it.
std::vector<CostRow> text_rows(const std::vector<Generation>& generations, std::uint64_t seed);

}  // namespace bipo
