#include "experiments/evaluation/evaluation_tables.hpp"

#include <fmt/format.h>

#include <functional>
#include <map>
#include <optional>
#include <utility>

#include "experiments/evaluation/text_metrics.hpp"

namespace bipo {
namespace {

// Returns `value`, a function or member, of every pair.
template <typename Value>
std::vector<double> values_of(const std::vector<PairLogProbs>& pairs, const Value& value) {
  std::vector<double> values;
  for (const PairLogProbs& pair : pairs) {
    values.push_back(std::invoke(value, pair));
  }
  return values;
}

double is_preferred(const PairLogProbs& pair) {
  return pair.chosen > pair.rejected ? 1 : 0;
}

double propensity_per_token(const PairLogProbs& pair) {
  return pair.chosen / static_cast<double>(pair.chosen_tokens) -
         pair.rejected / static_cast<double>(pair.rejected_tokens);
}

std::vector<double> margins_of(const std::vector<PairLogProbs>& pairs,
                               const std::vector<PairLogProbs>& reference, double beta) {
  std::vector<double> margins;
  for (std::size_t p = 0; p < pairs.size(); ++p) {
    margins.push_back(beta * ((pairs[p].chosen - reference[p].chosen) -
                              (pairs[p].rejected - reference[p].rejected)));
  }
  return margins;
}

CurveRow curve_row(const DirectionScores& scores, std::size_t place,
                   const std::vector<PairLogProbs>& reference, const MarginSettings& settings) {
  const std::vector<PairLogProbs>& pairs = scores.pairs[place];
  const auto estimate = [&](const auto& value) {
    return bootstrap_mean(values_of(pairs, value), settings.seed);
  };
  CurveRow row;
  row.direction = scores.direction;
  row.multiplier = scores.multipliers[place];
  row.pairs = static_cast<std::int64_t>(pairs.size());
  row.accuracy = estimate(is_preferred);
  row.margin = bootstrap_mean(margins_of(pairs, reference, settings.beta), settings.seed);
  row.propensity = estimate(&PairLogProbs::propensity);
  row.propensity_per_token = estimate(propensity_per_token);
  row.chosen_logp = mean(values_of(pairs, &PairLogProbs::chosen));
  row.rejected_logp = mean(values_of(pairs, &PairLogProbs::rejected));
  return row;
}

// Returns the propensity of one pair at each multiplier.
std::vector<double> propensity_curve(const DirectionScores& scores, std::size_t pair) {
  std::vector<double> curve;
  for (const auto& pairs : scores.pairs) {
    curve.push_back(pairs[pair].propensity());
  }
  return curve;
}

using Rows = std::map<double, std::vector<const Generation*>>;  // by multiplier

// Adds a row for each multiplier, over the texts for which `value` is known.
template <typename Value>
void add_text_measure(std::vector<CostRow>& table, const std::string& measure, const Rows& rows,
                      std::uint64_t seed, const Value& value) {
  for (const auto& [multiplier, texts] : rows) {
    std::vector<double> values;
    for (const Generation* text : texts) {
      if (const std::optional<double> known = value(text->text)) {
        values.push_back(*known);
      }
    }
    if (!values.empty()) {
      table.push_back({measure, "vector", multiplier, bootstrap_mean(values, seed),
                       static_cast<std::int64_t>(values.size())});
    }
  }
}

}  // namespace

void add_direction(Evaluation& evaluation, const DirectionScores& scores,
                   const std::vector<PairLogProbs>& reference, const MarginSettings& settings) {
  std::vector<double> slopes;
  std::vector<double> correlations;
  std::vector<double> against;
  for (std::size_t pair = 0; pair < reference.size(); ++pair) {
    const std::vector<double> curve = propensity_curve(scores, pair);
    slopes.push_back(least_squares_slope(scores.multipliers, curve));
    correlations.push_back(spearman(scores.multipliers, curve));
    against.push_back(slopes.back() < 0 ? 1 : 0);
  }
  SteerabilityRow row;
  row.direction = scores.direction;
  row.norm = scores.norm;
  row.pairs = static_cast<std::int64_t>(reference.size());
  row.steerability = bootstrap_mean(slopes, settings.seed);
  row.steerability_sd = standard_deviation(slopes);
  row.anti_steerable = bootstrap_mean(against, settings.seed);
  row.spearman = bootstrap_mean(correlations, settings.seed);
  evaluation.steerability.push_back(std::move(row));
  for (std::size_t m = 0; m < scores.multipliers.size(); ++m) {
    evaluation.curve.push_back(curve_row(scores, m, reference, settings));
    for (std::size_t pair = 0; pair < reference.size(); ++pair) {
      const PairLogProbs& sample = scores.pairs[m][pair];
      evaluation.samples.push_back({scores.direction, static_cast<std::int64_t>(pair),
                                    scores.multipliers[m], sample.chosen, sample.rejected,
                                    sample.chosen_tokens, sample.rejected_tokens, slopes[pair]});
    }
  }
}

GridRow grid_row(double multiplier_1, double multiplier_2, const std::vector<PairLogProbs>& pairs,
                 const std::vector<PairLogProbs>& reference, const MarginSettings& settings) {
  GridRow row;
  row.multiplier_1 = multiplier_1;
  row.multiplier_2 = multiplier_2;
  row.pairs = static_cast<std::int64_t>(pairs.size());
  row.accuracy = bootstrap_mean(values_of(pairs, is_preferred), settings.seed);
  row.margin = mean(margins_of(pairs, reference, settings.beta));
  row.propensity = bootstrap_mean(values_of(pairs, &PairLogProbs::propensity), settings.seed);
  return row;
}

void add_grid_samples(Evaluation& evaluation, double multiplier_1, double multiplier_2,
                      const std::vector<PairLogProbs>& pairs) {
  for (std::size_t pair = 0; pair < pairs.size(); ++pair) {
    evaluation.grid_samples.push_back({multiplier_1, multiplier_2, static_cast<std::int64_t>(pair),
                                       pairs[pair].chosen, pairs[pair].rejected});
  }
}

CostRow perplexity_row(const CostPlace& place, std::span<const TokenSum> log_probs,
                       std::uint64_t seed) {
  std::vector<double> sums;
  std::vector<std::int64_t> tokens;
  for (const TokenSum& item : log_probs) {
    sums.push_back(item.sum);
    tokens.push_back(item.tokens);
  }
  return {place.measure, place.direction, place.multiplier,
          bootstrap_perplexity(sums, tokens, seed), static_cast<std::int64_t>(log_probs.size())};
}

CostRow mean_per_token_row(const CostPlace& place, std::span<const TokenSum> values,
                           std::uint64_t seed) {
  const auto statistic = [&](std::span<const std::size_t> items) {
    double sum = 0;
    std::int64_t tokens = 0;
    for (const std::size_t item : items) {
      sum += values[item].sum;
      tokens += values[item].tokens;
    }
    return sum / static_cast<double>(tokens);
  };
  return {place.measure, place.direction, place.multiplier,
          bootstrap(values.size(), statistic, seed), static_cast<std::int64_t>(values.size())};
}

std::vector<CostRow> text_rows(const std::vector<Generation>& generations, std::uint64_t seed) {
  Rows rows;
  for (const Generation& generation : generations) {
    rows[generation.multiplier].push_back(&generation);
  }
  std::vector<CostRow> table;
  for (int n = 1; n <= 3; ++n) {
    add_text_measure(table, fmt::format("distinct_{}", n), rows, seed,
                     [n](const std::string& text) { return distinct_n(text, n); });
  }
  add_text_measure(table, "compression_ratio", rows, seed,
                   [](const std::string& text) { return compression_ratio(text); });
  add_text_measure(table, "refusal_rate", rows, seed, [](const std::string& text) {
    return std::optional<double>(is_refusal(text) ? 1 : 0);
  });
  return table;
}

}  // namespace bipo
