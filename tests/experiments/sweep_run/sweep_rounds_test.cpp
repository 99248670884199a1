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

TEST(PlanRound, ItsLayersAreNamedAsTheCellsAre) {
  const auto cell = [](std::int64_t layer, const char* joint_layers = "") {
    Cell made;
    made.layer = layer;
    made.joint_layers = joint_layers;
    return made;
  };
  const std::vector<Cell> cells = {cell(2), cell(10), cell(10), cell(10, "10+15"), cell(12)};
  EXPECT_EQ(layers_of_cells({0, {10}}, cells), "layers 10, 10+15");
  EXPECT_EQ(layers_of_cells({0, {2}}, cells), "layer 2");
  EXPECT_EQ(layers_of_cells({0, {2, 10, 12}}, cells), "layers 2, 10, 10+15, 12");
  const std::vector<Cell> many = {cell(0), cell(1), cell(2), cell(3),
                                  cell(4), cell(5), cell(6), cell(7)};
  EXPECT_EQ(layers_of_cells({0, {0, 1, 2, 3, 4, 5, 6, 7}}, many),
            "layers 0, 1, 2, 3, 4, 5 and 2 more");
}

TEST(PlanRound, TextsGiveTheRoundBack) {
  const Round round = {{3, {0, 17}}, {0, {2}}};
  EXPECT_EQ(round_from_text(round_to_text(round)), round);
  EXPECT_EQ(round_from_text(round_to_text({})), Round{});
}

}  // namespace
}  // namespace bipo
