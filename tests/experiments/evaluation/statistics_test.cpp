// Statistics against closed forms and numpy; the bootstrap against exact distributions of its
// resamples.
//
// Expected numbers without a derivation are what numpy 2 and pandas print for:
//   np.polyfit(x, y, 1)[0]; np.std(y, ddof=1)
//   np.corrcoef(pd.Series(x).rank(), pd.Series(y).rank())[0, 1]   (scipy.stats.spearmanr's formula)
#include "experiments/evaluation/statistics.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

using Values = std::vector<double>;

// Sums of fewer than ten numbers near 1 round by no more.
constexpr double kRounding = 1e-14;

TEST(Statistics, MeanAndStandardDeviation) {
  EXPECT_EQ(mean(Values{1, 2, 6}), 3);
  EXPECT_NEAR(standard_deviation(Values{-3.5, -1.25, 0.5, 0.25, 4}), 2.7443123000125187, kRounding);
  EXPECT_EQ(standard_deviation(Values{2, 2}), 0);
  EXPECT_TRUE(std::isnan(mean(Values{})));
  EXPECT_TRUE(std::isnan(standard_deviation(Values{})));
  EXPECT_TRUE(std::isnan(standard_deviation(Values{1})));
}

TEST(Statistics, SlopeOfALineIsItsFactor) {
  EXPECT_NEAR(least_squares_slope(Values{-1, 0.5, 7}, Values{5, 0.5, -19}), -3, kRounding);
}

TEST(Statistics, SlopeAsPolyfitFindsIt) {
  EXPECT_NEAR(least_squares_slope(Values{-2, -1, 0, 1, 2}, Values{-3.5, -1.25, 0.5, 0.25, 4}), 1.65,
              kRounding);
  EXPECT_NEAR(least_squares_slope(Values{-1.5, -1, -.5, 0, .5, 1, 1.5},
                                  Values{.1, -.4, .3, .2, .9, .8, 1.7}),
              0.5571428571428574, kRounding);
}

TEST(Statistics, SlopeNeedsTwoPlaces) {
  EXPECT_TRUE(std::isnan(least_squares_slope(Values{}, Values{})));
  EXPECT_TRUE(std::isnan(least_squares_slope(Values{1}, Values{2})));
  EXPECT_TRUE(std::isnan(least_squares_slope(Values{1, 1}, Values{2, 3})));
  EXPECT_THROW(least_squares_slope(Values{1, 2}, Values{2}), BugError);
}

TEST(Statistics, SpearmanSeesOrderAlone) {
  EXPECT_EQ(spearman(Values{-2, -1, 0, 1, 2}, Values{-1e9, -3, -2.9, 0, 1e-9}), 1);
  EXPECT_EQ(spearman(Values{-2, -1, 0, 1, 2}, Values{5, 4, 3, 2, -1}), -1);
}

TEST(Statistics, SpearmanGivesTiesTheirAverageRank) {
  EXPECT_NEAR(spearman(Values{1, 2, 2, 3, 5, 5, 5, 8}, Values{2.5, 1, 4, 4, 3, 9, 7, 7}),
              0.7144097497387378, kRounding);
}

TEST(Statistics, SpearmanOfNothingThatMoves) {
  EXPECT_EQ(spearman(Values{-1, 0, 1}, Values{2, 2, 2}), 0);
  EXPECT_TRUE(std::isnan(spearman(Values{1, 1}, Values{2, 3})));
  EXPECT_TRUE(std::isnan(spearman(Values{}, Values{})));
  EXPECT_TRUE(
      std::isnan(spearman(Values{1, 2}, Values{2, std::numeric_limits<double>::quiet_NaN()})));
}

TEST(Bootstrap, WithoutItemsNothingIsKnownAndWithOneNothingVaries) {
  const Interval none = bootstrap_mean(Values{}, 1);
  EXPECT_TRUE(std::isnan(none.value) && std::isnan(none.low) && std::isnan(none.high));
  const Interval one = bootstrap_mean(Values{2.5}, 1);
  EXPECT_EQ(one.value, 2.5);
  EXPECT_EQ(one.low, 2.5);
  EXPECT_EQ(one.high, 2.5);
}

// Two items are both drawn alike half of the time: each extreme has a quarter of the resamples.
TEST(Bootstrap, TwoItemsReachBothExtremes) {
  const Interval interval = bootstrap_mean(Values{0, 1}, 7);
  EXPECT_EQ(interval.value, 0.5);
  EXPECT_EQ(interval.low, 0);
  EXPECT_EQ(interval.high, 1);
}

// The ones among 20 draws from as many ones as zeros are binomial: P(X <= 5) = 0.0207 and
// P(X <= 6) = 0.0577, so the quantiles are 6 and 14.  At 1e5 resamples the share up to 5 has a
// standard deviation of 0.00045, nine and a half of which lie between 0.0207 and 0.025.
TEST(Bootstrap, OfAShareIsBinomial) {
  Values values(10, 0);
  values.resize(20, 1);
  for (const std::uint64_t seed : {0ULL, 11ULL, 1ULL << 40}) {
    const Interval interval = bootstrap_mean(values, seed, 100000);
    EXPECT_EQ(interval.value, 0.5);
    EXPECT_DOUBLE_EQ(interval.low, 0.3) << seed;
    EXPECT_DOUBLE_EQ(interval.high, 0.7) << seed;
  }
}

// The mean of n values 1..n is nearly normal with variance (n^2 - 1) / 12 / n over the resamples. A
// sample quantile at p has the standard error sqrt(p (1 - p) / resamples) / density = 0.06 sigma at
// 2000 resamples; five of them are allowed.
TEST(Bootstrap, OfManyItemsIsNormal) {
  constexpr int kItems = 501;
  Values values;
  for (int i = 1; i <= kItems; ++i) {
    values.push_back(i);
  }
  const double sigma = std::sqrt((kItems * kItems - 1) / 12.0 / kItems);
  const Interval interval = bootstrap_mean(values, 3);
  EXPECT_EQ(interval.value, 251);
  EXPECT_NEAR(interval.low, 251 - 1.96 * sigma, 0.3 * sigma);
  EXPECT_NEAR(interval.high, 251 + 1.96 * sigma, 0.3 * sigma);
}

TEST(Bootstrap, EveryItemIsDrawnAboutAsOften) {
  constexpr std::size_t kItems = 7;
  constexpr int kResamples = 10000;
  std::vector<double> drawn(kItems);
  bootstrap(
      kItems,
      [&](std::span<const std::size_t> items) {
        EXPECT_EQ(items.size(), kItems);
        for (const std::size_t item : items) {
          drawn.at(item) += 1;
        }
        return 0.0;
      },
      5, kResamples);
  // Binomial: 10000 expected (and one of all items), standard deviation 92.6.
  for (const double count : drawn) {
    EXPECT_NEAR(count, kResamples + 1, 5 * 92.6);
  }
}

TEST(Bootstrap, IsAFunctionOfTheSeed) {
  const Values values = {0.1, 0.7, -2, 3.5, 0.25, 9, -4};
  const Interval first = bootstrap_mean(values, 11);
  const Interval again = bootstrap_mean(values, 11);
  const Interval other = bootstrap_mean(values, 12);
  EXPECT_EQ(first.low, again.low);
  EXPECT_EQ(first.high, again.high);
  EXPECT_NE(first.low, other.low);
}

TEST(Bootstrap, EqualCountsAreDrawnAlike) {
  const Values values = {0.1, 0.7, -2, 3.5, 0.25, 9, -4};
  Values doubled;
  for (const double value : values) {
    doubled.push_back(2 * value);
  }
  const Interval once = bootstrap_mean(values, 11);
  const Interval twice = bootstrap_mean(doubled, 11);
  EXPECT_EQ(twice.low, 2 * once.low);
  EXPECT_EQ(twice.high, 2 * once.high);
}

TEST(Bootstrap, UndefinedResamplesLeaveNoInterval) {
  const auto sometimes = [](std::span<const std::size_t> items) {
    return items[0] == items[1] ? std::numeric_limits<double>::quiet_NaN() : 1.0;
  };
  const Interval interval = bootstrap(2, sometimes, 1);
  EXPECT_EQ(interval.value, 1);
  EXPECT_TRUE(std::isnan(interval.low));
  EXPECT_TRUE(std::isnan(interval.high));
}

TEST(Perplexity, OfEvenChancesIsTheirNumber) {
  const double log2 = std::log(2.0);
  const std::vector<std::int64_t> tokens = {1, 5, 30};
  const Interval interval = bootstrap_perplexity(Values{-log2, -5 * log2, -30 * log2}, tokens, 1);
  EXPECT_NEAR(interval.value, 2, kRounding);
  EXPECT_NEAR(interval.low, 2, kRounding);
  EXPECT_NEAR(interval.high, 2, kRounding);
}

// Tokens weigh alike, not items: exp((1 + 9 * 3) / 10).
TEST(Perplexity, WeighsItemsByTheirTokens) {
  const std::vector<std::int64_t> tokens = {1, 9};
  const Interval interval = bootstrap_perplexity(Values{-1, -27}, tokens, 1);
  EXPECT_NEAR(interval.value, std::exp(2.8), 1e-12);
  EXPECT_NEAR(interval.low, std::exp(1.0), 1e-12);
  EXPECT_NEAR(interval.high, std::exp(3.0), 1e-12);
}

}  // namespace
}  // namespace bipo
