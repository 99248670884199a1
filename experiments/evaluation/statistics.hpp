// Slopes, rank correlations and bootstrap intervals of an evaluation.  Local: pure functions, whose
// bits do not depend on ranks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

namespace bipo {

inline constexpr int kResamples = 2000;

// NaN where there are no values.
double mean(std::span<const double> values);

// With n - 1; NaN below two values.
double standard_deviation(std::span<const double> values);

// Of y = a + slope * x.  NaN where x holds fewer than two different values.
double least_squares_slope(std::span<const double> x, std::span<const double> y);

// Pearson's correlation of the ranks, ties having their average rank.  NaN where x holds fewer than
// two different values, and 0 where only y does: nothing rises or falls with x.
double spearman(std::span<const double> x, std::span<const double> y);

// A statistic of all items, and the 95 % percentile interval of it over resamples.
struct Interval {
  double value = 0;
  double low = 0;
  double high = 0;
};

// Statistic of the items whose indices are given; each may occur several times or not at all.
using Statistic = std::function<double(std::span<const std::size_t>)>;

// Efron's percentile bootstrap: `statistic` of the items 0, 1, ..., items - 1 once each, and
// the 2.5 and 97.5 % quantiles (interpolated linearly) of what it gives for `resamples` draws of as
// many items with replacement.  The draws are counter-based random numbers of (seed, resample,
// position), so that equally many items are drawn alike for every statistic.  Without items all
// three numbers are NaN; with one, both limits are the value.  Where a resample gives NaN, both
// limits are NaN.
Interval bootstrap(std::size_t items, const Statistic& statistic, std::uint64_t seed,
                   int resamples = kResamples);

// Of mean(values).
Interval bootstrap_mean(std::span<const double> values, std::uint64_t seed,
                        int resamples = kResamples);

// Of exp(-sum of logp / sum of tokens): item i has `tokens[i]` (> 0) predicted tokens whose summed
// log-probability is `logp[i]`, in nats.
Interval bootstrap_perplexity(std::span<const double> logp, std::span<const std::int64_t> tokens,
                              std::uint64_t seed, int resamples = kResamples);

}  // namespace bipo
