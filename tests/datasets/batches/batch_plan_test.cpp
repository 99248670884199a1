// Philox against its published vectors, and the batch plan against its stated properties.
#include "datasets/batches/batch_plan.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "collectives/foundation/errors.hpp"
#include "datasets/batches/philox.hpp"
#include "datasets/batches/prefix_packs.hpp"

namespace bipo {
namespace {

using Words = std::array<std::uint32_t, 4>;

PlanSettings settings(std::int64_t pairs, std::int64_t batch_size, std::int64_t epochs = 3) {
  PlanSettings result;
  result.pairs = pairs;
  result.batch_size = batch_size;
  result.micro_batch = batch_size;
  result.epochs = epochs;
  return result;
}

std::vector<std::int64_t> batch_of(const StepPlan& plan) {
  std::vector<std::int64_t> batch;
  for (const auto& micro_batch : plan.micro_batches) {
    batch.insert(batch.end(), micro_batch.begin(), micro_batch.end());
  }
  return batch;
}

std::vector<std::int64_t> epoch_of(const BatchPlan& plan, std::int64_t epoch) {
  std::vector<std::int64_t> order;
  for (std::int64_t step = 0; step < plan.steps_per_epoch(); ++step) {
    const auto batch = batch_of(plan.step(epoch * plan.steps_per_epoch() + step));
    order.insert(order.end(), batch.begin(), batch.end());
  }
  return order;
}

std::vector<std::int64_t> counting(std::int64_t count) {
  std::vector<std::int64_t> numbers(static_cast<std::size_t>(count));
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

// The known-answer vectors that Random123 publishes for philox4x32-10.
TEST(Philox, MatchesPublishedVectors) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(BatchPlan, EveryEpochIsAPermutationAndDiffersFromTheOthers) {
  const BatchPlan plan(settings(101, 4));
  std::set<std::vector<std::int64_t>> orders;
  for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
    auto order = epoch_of(plan, epoch);
    orders.insert(order);
    std::sort(order.begin(), order.end());
    EXPECT_EQ(order, counting(101));
  }
  orders.insert(counting(101));
  EXPECT_EQ(orders.size(), 4U);
}

// Ranks by pairwise comparison of keys built here from the generator itself.
TEST(BatchPlan, ShuffleOrdersByThePhiloxKeyOfSeedEpochAndIndex) {
  auto chosen = settings(23, 23, 2);
  chosen.seed = 0x0123456789abcdefULL;
  const auto order = epoch_of(BatchPlan(chosen), 1);
  const auto key = [](std::int64_t index) {
    const auto words =
        philox4x32({static_cast<std::uint32_t>(index), 0, 1, 0}, {0x89abcdef, 0x01234567});
    return (static_cast<std::uint64_t>(words[1]) << 32) + words[0];
  };
  for (std::size_t place = 0; place + 1 < order.size(); ++place) {
    EXPECT_LT(key(order[place]), key(order[place + 1]));
  }
}

TEST(BatchPlan, StepsFollowTheOrderOfTheirEpoch) {
  const BatchPlan plan(settings(23, 4));
  for (std::int64_t index = 0; index < plan.total_steps(); ++index) {
    const std::vector<std::int64_t> order = plan.order(plan.epoch_of(index));
    const StepPlan step = plan.step(index, order);
    EXPECT_EQ(step.epoch, plan.epoch_of(index));
    const auto begin = order.begin() + index % plan.steps_per_epoch() * 4;
    EXPECT_EQ(batch_of(step), std::vector<std::int64_t>(begin, begin + step.pairs));
    EXPECT_EQ(batch_of(plan.step(index)), batch_of(step));
  }
}

// With uniform permutations each of 5 items is first in a fifth of the epochs; the bound is five
// standard deviations of a binomial count.
TEST(BatchPlan, EveryPairComesFirstEquallyOften) {
  constexpr std::int64_t kEpochs = 5000;
  const BatchPlan plan(settings(5, 5, kEpochs));
  std::vector<std::int64_t> first(5, 0);
  for (std::int64_t epoch = 0; epoch < kEpochs; ++epoch) {
    ++first[static_cast<std::size_t>(plan.step(epoch).micro_batches[0][0])];
  }
  for (const std::int64_t count : first) {
    EXPECT_NEAR(static_cast<double>(count), kEpochs / 5.0, 5 * std::sqrt(kEpochs * 0.2 * 0.8));
  }
}

TEST(BatchPlan, BatchesAndSignsDoNotDependOnMicroBatch) {
  for (const SignRule rule : {SignRule::kBatch, SignRule::kPair, SignRule::kBoth}) {
    auto whole = settings(50, 8);
    whole.sign = rule;
    auto cut = whole;
    cut.micro_batch = 3;
    const BatchPlan one(whole);
    const BatchPlan other(cut);
    ASSERT_EQ(one.total_steps(), other.total_steps());
    for (std::int64_t step = 0; step < one.total_steps(); ++step) {
      EXPECT_EQ(batch_of(one.step(step)), batch_of(other.step(step)));
      EXPECT_EQ(one.step(step).passes, other.step(step).passes);
    }
  }
}

TEST(BatchPlan, MicroBatchesAreConsecutiveAndTheLastIsShort) {
  auto cut = settings(8, 8);
  cut.micro_batch = 3;
  cut.shuffle = false;
  const std::vector<std::vector<std::int64_t>> expected = {{0, 1, 2}, {3, 4, 5}, {6, 7}};
  EXPECT_EQ(BatchPlan(cut).step(0).micro_batches, expected);
}

TEST(BatchPlan, LastBatchOfAnEpochIsShortAndKept) {
  auto unshuffled = settings(10, 4);
  unshuffled.shuffle = false;
  const BatchPlan plan(unshuffled);
  EXPECT_EQ(plan.steps_per_epoch(), 3);
  EXPECT_EQ(plan.total_steps(), 9);
  const StepPlan last = plan.step(5);
  EXPECT_EQ(last.step, 5);
  EXPECT_EQ(last.epoch, 1);
  EXPECT_TRUE(last.ends_epoch);
  EXPECT_EQ(last.pairs, 2);
  EXPECT_EQ(batch_of(last), (std::vector<std::int64_t>{8, 9}));
  EXPECT_EQ(last.passes[0].size(), 2U);
  EXPECT_FALSE(plan.step(4).ends_epoch);
  EXPECT_EQ(plan.step(4).pairs, 4);
}

TEST(BatchPlan, UnshuffledEpochsKeepFileOrder) {
  auto unshuffled = settings(7, 3);
  unshuffled.shuffle = false;
  for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
    EXPECT_EQ(epoch_of(BatchPlan(unshuffled), epoch), counting(7));
  }
}

TEST(BatchPlan, MaxStepsEndsTheRun) {
  auto limited = settings(10, 4);
  limited.max_steps = 4;
  EXPECT_EQ(BatchPlan(limited).total_steps(), 4);
  EXPECT_FALSE(BatchPlan(limited).step(3).ends_epoch);
  EXPECT_THROW(BatchPlan(limited).step(4), BugError);
  EXPECT_THROW(BatchPlan(limited).step(-1), BugError);
  limited.max_steps = 100;
  EXPECT_EQ(BatchPlan(limited).total_steps(), 9);
}

TEST(BatchPlan, BatchSignIsOneFairCoinPerStep) {
  const BatchPlan plan(settings(400, 4, 100));
  std::int64_t sum = 0;
  for (std::int64_t step = 0; step < plan.total_steps(); ++step) {
    const StepPlan planned = plan.step(step);
    ASSERT_EQ(planned.passes.size(), 1U);
    ASSERT_TRUE(planned.logged_sign == 1 || planned.logged_sign == -1);
    EXPECT_EQ(planned.passes[0], std::vector<std::int8_t>(4, planned.logged_sign));
    sum += planned.logged_sign;
  }
  EXPECT_LT(std::abs(static_cast<double>(sum)), 5 * std::sqrt(10000.0));
}

TEST(BatchPlan, PairSignsAreFairAndBelongToThePairNotItsPlace) {
  auto by_pair = settings(500, 50, 20);
  by_pair.sign = SignRule::kPair;
  auto unshuffled = by_pair;
  unshuffled.shuffle = false;
  const BatchPlan plan(by_pair);
  const BatchPlan in_file_order(unshuffled);
  std::int64_t sum = 0;
  std::int64_t mixed_batches = 0;
  for (std::int64_t step = 0; step < plan.total_steps(); ++step) {
    const StepPlan planned = plan.step(step);
    EXPECT_EQ(planned.logged_sign, 0);
    ASSERT_EQ(planned.passes.size(), 1U);
    const auto& signs = planned.passes[0];
    sum += std::accumulate(signs.begin(), signs.end(), std::int64_t{0});
    mixed_batches += std::count(signs.begin(), signs.end(), signs[0]) < 50 ? 1 : 0;
    const auto batch = batch_of(planned);
    for (std::size_t place = 0; place < batch.size(); ++place) {
      const std::int64_t home = planned.epoch * plan.steps_per_epoch() + batch[place] / 50;
      EXPECT_EQ(signs[place],
                in_file_order.step(home).passes[0][static_cast<std::size_t>(batch[place] % 50)]);
    }
  }
  EXPECT_EQ(mixed_batches, plan.total_steps());
  EXPECT_LT(std::abs(static_cast<double>(sum)), 5 * std::sqrt(10000.0));
}

TEST(BatchPlan, BothMakesTwoPassesAndTheFixedRulesOne) {
  auto fixed = settings(3, 2);
  fixed.sign = SignRule::kBoth;
  const StepPlan both = BatchPlan(fixed).step(1);
  EXPECT_EQ(both.passes, (std::vector<std::vector<std::int8_t>>{{1}, {-1}}));
  EXPECT_EQ(both.logged_sign, 0);
  fixed.sign = SignRule::kPlus;
  EXPECT_EQ(BatchPlan(fixed).step(0).passes, (std::vector<std::vector<std::int8_t>>{{1, 1}}));
  EXPECT_EQ(BatchPlan(fixed).step(0).logged_sign, 1);
  fixed.sign = SignRule::kMinus;
  EXPECT_EQ(BatchPlan(fixed).step(0).passes, (std::vector<std::vector<std::int8_t>>{{-1, -1}}));
  EXPECT_EQ(BatchPlan(fixed).step(0).logged_sign, -1);
}

TEST(BatchPlan, SeedChangesOrderAndSigns) {
  auto other = settings(64, 1, 1);
  const BatchPlan one(other);
  other.seed = other.seed + (std::uint64_t{1} << 32);
  const BatchPlan two(other);
  EXPECT_NE(epoch_of(one, 0), epoch_of(two, 0));
  std::vector<int> signs_one;
  std::vector<int> signs_two;
  for (std::int64_t step = 0; step < 64; ++step) {
    signs_one.push_back(one.step(step).logged_sign);
    signs_two.push_back(two.step(step).logged_sign);
  }
  EXPECT_NE(signs_one, signs_two);
}

TEST(BatchPlan, SignsAreDrawnAnewInEachEpoch) {
  for (const SignRule rule : {SignRule::kBatch, SignRule::kPair}) {
    auto unshuffled = settings(64, rule == SignRule::kBatch ? 1 : 64, 2);
    unshuffled.shuffle = false;
    unshuffled.sign = rule;
    const BatchPlan plan(unshuffled);
    std::vector<std::vector<std::int8_t>> signs(2);
    for (std::int64_t step = 0; step < plan.total_steps(); ++step) {
      const StepPlan planned = plan.step(step);
      auto& of_epoch = signs[static_cast<std::size_t>(planned.epoch)];
      of_epoch.insert(of_epoch.end(), planned.passes[0].begin(), planned.passes[0].end());
    }
    EXPECT_NE(signs[0], signs[1]) << to_string(rule);
  }
}

TEST(BatchPlan, SizesBelowOneAreRefused) {
  EXPECT_THROW(BatchPlan(settings(0, 4)), UserError);
  EXPECT_THROW(BatchPlan(settings(4, 0)), UserError);
  EXPECT_THROW(BatchPlan(settings(4, 4, 0)), UserError);
  auto bad = settings(4, 4);
  bad.micro_batch = 0;
  EXPECT_THROW(BatchPlan{bad}, UserError);
  bad = settings(4, 4);
  bad.max_steps = -1;
  EXPECT_THROW(BatchPlan{bad}, UserError);
}

TEST(BatchPlan, BatchLargerThanTheDataIsOneShortBatch) {
  const BatchPlan plan(settings(3, std::int64_t{1} << 62));
  EXPECT_EQ(plan.steps_per_epoch(), 1);
  EXPECT_EQ(plan.step(0).pairs, 3);
  EXPECT_EQ(plan.step(0).micro_batches.size(), 1U);
}

TEST(ConsecutiveGroups, CutsInOrder) {
  EXPECT_EQ(consecutive_groups(5, 2),
            (std::vector<std::vector<std::int64_t>>{{0, 1}, {2, 3}, {4}}));
  EXPECT_TRUE(consecutive_groups(0, 2).empty());
  EXPECT_THROW(consecutive_groups(5, 0), BugError);
}

TEST(DevicePacks, CountEveryItemAsTheLongest) {
  using Packs = std::vector<std::vector<std::int64_t>>;
  EXPECT_EQ(device_packs({3, 4, 4, 5, 1, 1}, 12), (Packs{{0, 1, 2}, {3, 4}, {5}}));
  EXPECT_EQ(device_packs({2, 13, 2, 2}, 12), (Packs{{0}, {1}, {2, 3}}));
  EXPECT_EQ(device_packs({2, 3}, 1), (Packs{{0}, {1}}));
  EXPECT_TRUE(device_packs({}, 12).empty());
}

TEST(SignRule, NamesRoundTripAndOthersAreRefused) {
  for (const char* name : {"batch", "pair", "both", "plus", "minus"}) {
    EXPECT_EQ(to_string(parse_sign_rule(name)), name);
  }
  EXPECT_THROW(parse_sign_rule("positive"), UserError);
  EXPECT_THROW(parse_sign_rule(""), UserError);
}

TEST(BalancedGroups, DearestGoWhereLeastIsSpent) {
  // 9 and 8 open the groups, 7 joins 8, 3 joins 9, the rest where there is room.
  EXPECT_EQ(balanced_groups({3, 9, 1, 8, 7, 1}, 3),
            (std::vector<std::vector<std::int64_t>>{{0, 1, 2}, {3, 4, 5}}));
  EXPECT_EQ(balanced_groups({1, 1, 10, 10}, 2),
            (std::vector<std::vector<std::int64_t>>{{0, 2}, {1, 3}}));
  EXPECT_EQ(balanced_groups({5, 5, 5}, 2), (std::vector<std::vector<std::int64_t>>{{0, 1}, {2}}));
  EXPECT_EQ(balanced_groups({4, 2, 9}, 5), (std::vector<std::vector<std::int64_t>>{{0, 1, 2}}));
}

TEST(BatchPlan, CostsDealTheSamePairsDifferently) {
  PlanSettings settings;
  settings.pairs = 8;
  settings.batch_size = 8;
  settings.micro_batch = 4;
  settings.epochs = 1;
  settings.shuffle = false;
  settings.sign = SignRule::kPair;
  const StepPlan plain = BatchPlan(settings).step(0);
  settings.costs = {90, 80, 70, 60, 1, 1, 1, 1};
  const StepPlan dealt = BatchPlan(settings).step(0);
  EXPECT_EQ(plain.micro_batches,
            (std::vector<std::vector<std::int64_t>>{{0, 1, 2, 3}, {4, 5, 6, 7}}));
  // 90 + 60 against 80 + 70, then two small ones each.
  EXPECT_EQ(dealt.micro_batches,
            (std::vector<std::vector<std::int64_t>>{{0, 3, 4, 6}, {1, 2, 5, 7}}));
  // A pair keeps its sign, wherever it goes.
  const std::vector<std::int64_t> order = {0, 3, 4, 6, 1, 2, 5, 7};
  for (std::size_t i = 0; i < order.size(); ++i) {
    EXPECT_EQ(dealt.passes[0][i], plain.passes[0][static_cast<std::size_t>(order[i])]);
  }
  settings.costs = {1, 2};
  EXPECT_THROW(BatchPlan{settings}, BugError);
}

// The factors of all pairs in an epoch, by pair.
std::vector<double> factors_of(const BatchPlan& plan, std::int64_t epoch, std::size_t pairs) {
  std::vector<double> factors(pairs);
  for (std::int64_t step = 0; step < plan.steps_per_epoch(); ++step) {
    const StepPlan of_step = plan.step(epoch * plan.steps_per_epoch() + step);
    const auto batch = batch_of(of_step);
    for (std::size_t i = 0; i < batch.size(); ++i) {
      factors[static_cast<std::size_t>(batch[i])] = of_step.factors.at(i);
    }
  }
  return factors;
}

TEST(Factors, AreOneByDefault) {
  EXPECT_EQ(factors_of(BatchPlan(settings(10, 4)), 1, 10), std::vector<double>(10, 1.0));
}

TEST(Factors, FollowSeedEpochAndPairAlone) {
  PlanSettings given = settings(3000, 8);
  given.factors = {0.5, 1, 4};
  const std::vector<double> first = factors_of(BatchPlan(given), 0, 3000);
  for (const double factor : given.factors) {
    // A third of 3000 with a standard deviation of 26.
    EXPECT_NEAR(static_cast<double>(std::count(first.begin(), first.end(), factor)), 1000, 130);
  }
  PlanSettings other = given;
  other.batch_size = 5;
  other.micro_batch = 2;
  other.shuffle = false;
  other.sign = SignRule::kBoth;
  EXPECT_EQ(factors_of(BatchPlan(other), 0, 3000), first);
  EXPECT_NE(factors_of(BatchPlan(given), 1, 3000), first);
  other.seed = 12;
  EXPECT_NE(factors_of(BatchPlan(other), 0, 3000), first);
}

}  // namespace
}  // namespace bipo
