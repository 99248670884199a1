// Slopes, rank correlations and bootstrap intervals for an evaluation.
#include "experiments/evaluation/statistics.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "datasets/batches/philox.hpp"

namespace bipo {
namespace {

constexpr double kUndefined = std::numeric_limits<double>::quiet_NaN();

// Keeps these random numbers apart from those of the batch plan under one seed.
constexpr std::uint32_t kBootstrapStream = 0x626f6f74;

// Fills `draw` with indices below `items`.  The high word of a product is uniform up to a bias of
// items / 2^32, far below the noise of any number of resamples.
void draw_items(std::size_t items, std::uint64_t seed, std::uint32_t resample,
                std::vector<std::size_t>& draw) {
  const std::array<std::uint32_t, 2> key = {static_cast<std::uint32_t>(seed),
                                            static_cast<std::uint32_t>(seed >> 32)};
  for (std::size_t i = 0; i < draw.size(); i += 4) {
    const std::uint64_t block = i / 4;
    const auto words =
        philox4x32({static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32),
                    resample, kBootstrapStream},
                   key);
    for (std::size_t k = 0; k < words.size() && i + k < draw.size(); ++k) {
      draw[i + k] = static_cast<std::size_t>((std::uint64_t{words[k]} * items) >> 32);
    }
  }
}

// Interpolates linearly between the two nearest of the sorted values, as numpy does by default.
double quantile(const std::vector<double>& sorted, double share) {
  const double position = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(position);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  const double fraction = position - static_cast<double>(below);
  return sorted[below] + fraction * (sorted[above] - sorted[below]);
}

void require_equally_many(std::size_t x, std::size_t y) {
  if (x != y) {
    throw BugError(fmt::format("{} values of x and {} of y", x, y));
  }
}

bool all_equal(std::span<const double> values) {
  return std::all_of(values.begin(), values.end(),
                     [&](double value) { return value == values.front(); });
}

struct Moments {
  double xx = 0;  // sum of squared deviations of x
  double yy = 0;
  double xy = 0;
};

Moments moments(std::span<const double> x, std::span<const double> y) {
  const double x_mean = mean(x);
  const double y_mean = mean(y);
  Moments sums;
  for (std::size_t i = 0; i < x.size(); ++i) {
    sums.xx += (x[i] - x_mean) * (x[i] - x_mean);
    sums.yy += (y[i] - y_mean) * (y[i] - y_mean);
    sums.xy += (x[i] - x_mean) * (y[i] - y_mean);
  }
  return sums;
}

// Returns ranks from 1; equal values share the mean of their ranks.
std::vector<double> ranks(std::span<const double> values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<double> result(values.size());
  for (std::size_t begin = 0; begin < order.size();) {
    std::size_t end = begin;
    while (end < order.size() && values[order[end]] == values[order[begin]]) {
      ++end;
    }
    const double rank = static_cast<double>(begin + 1 + end) / 2;
    for (; begin < end; ++begin) {
      result[order[begin]] = rank;
    }
  }
  return result;
}

bool holds_nan(std::span<const double> values) {
  return std::any_of(values.begin(), values.end(), [](double value) { return std::isnan(value); });
}

}  // namespace

double mean(std::span<const double> values) {
  if (values.empty()) {
    return kUndefined;
  }
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double standard_deviation(std::span<const double> values) {
  if (values.size() < 2) {
    return kUndefined;
  }
  return std::sqrt(moments(values, values).xx / static_cast<double>(values.size() - 1));
}

double least_squares_slope(std::span<const double> x, std::span<const double> y) {
  require_equally_many(x.size(), y.size());
  if (x.empty() || all_equal(x)) {
    return kUndefined;
  }
  const Moments sums = moments(x, y);
  return sums.xy / sums.xx;
}

double spearman(std::span<const double> x, std::span<const double> y) {
  require_equally_many(x.size(), y.size());
  if (x.empty() || all_equal(x) || holds_nan(x) || holds_nan(y)) {
    return kUndefined;
  }
  if (all_equal(y)) {
    return 0;
  }
  const std::vector<double> x_ranks = ranks(x);
  const std::vector<double> y_ranks = ranks(y);
  const Moments sums = moments(x_ranks, y_ranks);
  return sums.xy / std::sqrt(sums.xx * sums.yy);
}

Interval bootstrap(std::size_t items, const Statistic& statistic, std::uint64_t seed,
                   int resamples) {
  if (resamples < 1) {
    throw BugError(fmt::format("a bootstrap of {} resamples", resamples));
  }
  if (items == 0) {
    return {kUndefined, kUndefined, kUndefined};
  }
  std::vector<std::size_t> draw(items);
  std::iota(draw.begin(), draw.end(), std::size_t{0});
  const double value = statistic(draw);
  if (items == 1) {
    return {value, value, value};
  }
  std::vector<double> values;
  values.reserve(static_cast<std::size_t>(resamples));
  for (int resample = 0; resample < resamples; ++resample) {
    draw_items(items, seed, static_cast<std::uint32_t>(resample), draw);
    values.push_back(statistic(draw));
  }
  if (holds_nan(values)) {
    return {value, kUndefined, kUndefined};
  }
  std::sort(values.begin(), values.end());
  return {value, quantile(values, 0.025), quantile(values, 0.975)};
}

Interval bootstrap_mean(std::span<const double> values, std::uint64_t seed, int resamples) {
  const auto mean_of = [&](std::span<const std::size_t> items) {
    double sum = 0;
    for (const std::size_t item : items) {
      sum += values[item];
    }
    return sum / static_cast<double>(items.size());
  };
  return bootstrap(values.size(), mean_of, seed, resamples);
}

Interval bootstrap_perplexity(std::span<const double> logp, std::span<const std::int64_t> tokens,
                              std::uint64_t seed, int resamples) {
  require_equally_many(logp.size(), tokens.size());
  const auto perplexity_of = [&](std::span<const std::size_t> items) {
    double sum = 0;
    std::int64_t count = 0;
    for (const std::size_t item : items) {
      sum += logp[item];
      count += tokens[item];
    }
    return std::exp(-sum / static_cast<double>(count));
  };
  return bootstrap(logp.size(), perplexity_of, seed, resamples);
}

}  // namespace bipo
