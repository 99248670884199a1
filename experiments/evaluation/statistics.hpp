// Slopes, rank correlations and bootstrap intervals for an evaluation.  Local: pure functions,
// whose results do not depend on the number of ranks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

namespace bipo {

inline constexpr int kResamples = 2000;

// NaN where there are no values.
double mean(std::span<const double> values);

// Divides by n - 1; NaN below two values.
double standard_deviation(std::span<const double> values);

// Fits y = a + slope * x.  NaN where x has fewer than two different values.
double least_squares_slope(std::span<const double> x, std::span<const double> y);

// Returns Pearson's correlation of the ranks; ties have their average rank.  NaN where x has fewer
// than two different values, 0 where only y does.
double spearman(std::span<const double> x, std::span<const double> y);

// A statistic over all items, and its 95 % percentile interval over resamples.
struct Interval {
  double value = 0;
  double low = 0;
  double high = 0;
};

// Computes a statistic of the items with the given indices; each may occur any number of times.
using Statistic = std::function<double(std::span<const std::size_t>)>;

// Efron's percentile bootstrap: `statistic` of the items 0, 1, ..., items - 1 once each, and
// the 2.5 and 97.5 % quantiles (interpolated linearly) of its values for `resamples` draws of as
// many items with replacement.  The draws are counter-based random numbers of (seed, resample,
// position), so that every statistic of equally many items sees the same draws.  All three numbers
// are NaN without items; both limits are the value with one item, and NaN where a resample gives
// NaN.
Interval bootstrap(std::size_t items, const Statistic& statistic, std::uint64_t seed,
                   int resamples = kResamples);

// The bootstrap of mean(values).
Interval bootstrap_mean(std::span<const double> values, std::uint64_t seed,
                        int resamples = kResamples);

// The bootstrap of exp(-sum of logp / sum of tokens): item i has `tokens[i]` (> 0) predicted tokens
// whose summed log-probability is `logp[i]`, in nats.
Interval bootstrap_perplexity(std::span<const double> logp, std::span<const std::int64_t> tokens,
                              std::uint64_t seed, int resamples = kResamples);

}  // namespace bipo
