// Rounds of a sweep against choices made by hand.
#include "experiments/sweep_run/sweep_rounds.hpp"

#include <gtest/gtest.h>

namespace bipo {
namespace {

using Round = std::vector<RoundPart>;

TEST(PlanRound, TakesAllThatFitsInTheOrderOfNeed) {
  const std::vector<LayerNeed> needs = {{0, 5, 10}, {1, 3, 10}, {0, 2, 10}, {1, 4, 10}};
  EXPECT_EQ(plan_round(needs, 40), (Round{{0, {2, 5}}, {1, {3, 4}}}));
  EXPECT_EQ(plan_round(needs, 39), (Round{{0, {2, 5}}, {1, {3}}}));
  EXPECT_EQ(plan_round(needs, 10), (Round{{0, {5}}}));
}

TEST(PlanRound, ALayerIsKeptOnceForAllItsPacks) {
  EXPECT_EQ(plan_round({{0, 5, 10}, {0, 5, 10}, {0, 6, 10}}, 20), (Round{{0, {5, 6}}}));
}

TEST(PlanRound, WhatDoesNotFitWaitsAndSmallerOnesGoFirst) {
  EXPECT_EQ(plan_round({{0, 5, 10}, {1, 3, 100}, {0, 2, 10}}, 25), (Round{{0, {2, 5}}}));
}

TEST(PlanRound, TheFirstNeedIsAlwaysTaken) {
  EXPECT_EQ(plan_round({{0, 5, 10}, {1, 3, 1}}, 0), (Round{{0, {5}}}));
  EXPECT_EQ(plan_round({}, 100), Round{});
}

TEST(PlanRound, TextsGiveTheRoundBack) {
  const Round round = {{3, {0, 17}}, {0, {2}}};
  EXPECT_EQ(round_from_text(round_to_text(round)), round);
  EXPECT_EQ(round_from_text(round_to_text({})), Round{});
}

}  // namespace
}  // namespace bipo
