// Streamed sums against sums of longer numbers, in any order, grouping and number of ranks.
#include "collectives/streamed_sum.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "collectives/self_communicator.hpp"
#include "tests/support/thread_communicator.hpp"

namespace bipo {
namespace {

constexpr std::int64_t kLength = 50;

// Numbers of both signs whose magnitudes lie up to 2^spread apart.
std::vector<std::vector<double>> terms(int count, int spread) {
  std::mt19937_64 generator(3);
  std::uniform_real_distribution<double> mantissa(-1, 1);
  std::uniform_int_distribution<int> exponent(-spread / 2, spread / 2);
  std::vector<std::vector<double>> made(static_cast<std::size_t>(count));
  for (std::vector<double>& term : made) {
    for (std::int64_t i = 0; i < kLength; ++i) {
      term.push_back(std::ldexp(mantissa(generator), exponent(generator)));
    }
  }
  return made;
}

std::vector<double> values_of(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<double>(), tensor.const_data_ptr<double>() + tensor.numel()};
}

std::vector<double> alone(const std::vector<std::vector<double>>& all) {
  StreamedSum sum(kLength);
  for (const std::vector<double>& term : all) {
    sum.add(term);
  }
  SelfCommunicator self;
  return values_of(sum.total(at::kCPU, self));
}

TEST(StreamedSum, IsTheSumInLongerNumbers) {
  for (const int spread : {0, 20, 90, 300}) {
    const auto all = terms(200, spread);
    const std::vector<double> found = alone(all);
    double largest = 0;
    for (const std::vector<double>& term : all) {
      for (const double value : term) {
        largest = std::max(largest, std::abs(value));
      }
    }
    for (std::size_t i = 0; i < found.size(); ++i) {
      long double exact = 0;
      for (const std::vector<double>& term : all) {
        exact += term[i];
      }
      const double expected = static_cast<double>(exact);
      // What is dropped of a term lies below the third place, 2^-64 of the first, which the largest
      // element reaches; long double rounds as finely.  The places are then rounded to float64 and
      // added, each holding at most all terms.
      const double bound = 200 * largest * (2 * std::ldexp(1.0, -64) + 4 * std::ldexp(1.0, -53));
      EXPECT_NEAR(found[i], expected, bound) << spread << " " << i;
    }
  }
}

TEST(StreamedSum, OrderDoesNotMatter) {
  for (const int spread : {20, 300, 1200}) {
    auto all = terms(64, spread);
    const std::vector<double> first = alone(all);
    std::reverse(all.begin(), all.end());
    EXPECT_EQ(alone(all), first);
    // From the smallest to the largest, so that the places rise again and again.
    std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) {
      const auto largest = [](const std::vector<double>& term) {
        double found = 0;
        for (const double value : term) {
          found = std::max(found, std::abs(value));
        }
        return found;
      };
      return largest(a) < largest(b);
    });
    EXPECT_EQ(alone(all), first);
  }
}

TEST(StreamedSum, AnyNumberOfRanksGivesTheSameBits) {
  const auto all = terms(65, 200);
  const std::vector<double> expected = alone(all);
  for (const int ranks : {2, 3, 8}) {
    run_as_threads(ranks, [&](Communicator& group) {
      StreamedSum sum(kLength);
      for (std::size_t i = 0; i < all.size(); ++i) {
        if (static_cast<int>(i) % ranks == group.rank() && group.rank() != 1) {
          sum.add(all[i]);
        }
        if (static_cast<int>(i) % ranks == 1 && group.rank() == 0) {
          sum.add(all[i]);  // rank 1 has none
        }
      }
      EXPECT_EQ(values_of(sum.total(at::kCPU, group)), expected);
    });
  }
}

TEST(StreamedSum, CancelsToNothing) {
  std::vector<double> term(kLength, 1.0 / 3);
  std::vector<double> opposite(kLength, -1.0 / 3);
  std::vector<double> huge(kLength, 1e200);
  std::vector<double> minus_huge(kLength, -1e200);
  EXPECT_EQ(alone({term, opposite}), std::vector<double>(kLength, 0));
  EXPECT_EQ(alone({huge, minus_huge}), std::vector<double>(kLength, 0));
  EXPECT_EQ(alone({}), std::vector<double>(kLength, 0));
}

TEST(StreamedSum, ExtremesOfTheRange) {
  const double tiny = std::numeric_limits<double>::denorm_min();
  const double big = std::ldexp(1.0, 1000);
  EXPECT_EQ(alone({std::vector<double>(kLength, big), std::vector<double>(kLength, tiny)}),
            std::vector<double>(kLength, big));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(alone({std::vector<double>(kLength, nan), std::vector<double>(kLength, 2)}),
            std::vector<double>(kLength, 2));
}

}  // namespace
}  // namespace bipo
