// The plan of a sweep against counts, orders, names and texts worked out by hand.
#include "experiments/sweep_plan.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "collectives/errors.hpp"

namespace bipo {
namespace {

using Texts = std::vector<std::string>;

SweepAxes axes_of(std::vector<LayerRange> layers, std::vector<std::uint64_t> seeds = {1}) {
  return {std::move(layers), std::move(seeds), {5e-4}, {0.1}, {"batch"}};
}

Texts names(const std::vector<Cell>& cells) {
  Texts result;
  for (const Cell& cell : cells) {
    result.push_back(cell.name);
  }
  return result;
}

Texts names(const std::vector<Pack>& packs) {
  Texts result;
  for (const Pack& pack : packs) {
    result.push_back(pack.name);
  }
  return result;
}

std::vector<std::int64_t> layers_of(const std::vector<Cell>& cells) {
  std::vector<std::int64_t> layers;
  for (const Cell& cell : cells) {
    layers.push_back(cell.layer);
  }
  return layers;
}

std::string user_error(const std::function<void()>& call) {
  try {
    call();
  } catch (const UserError& error) {
    return error.what();
  }
  return "no error";
}

std::string expand_error(const SweepAxes& axes, std::int64_t blocks) {
  return user_error([&] { expand(axes, blocks); });
}

using Layers = std::vector<std::int64_t>;

TEST(Expand, CombinesEveryValueLayerSlowestSignFastest) {
  const SweepAxes axes{{{15, 16, 1}}, {1, 2}, {1e-3}, {0.1, 0.5}, {"batch"}};
  EXPECT_EQ(names(expand(axes, 30)), (Texts{
                                         "layer15-seed1-lr0.001-beta0.1-signbatch",
                                         "layer15-seed1-lr0.001-beta0.5-signbatch",
                                         "layer15-seed2-lr0.001-beta0.1-signbatch",
                                         "layer15-seed2-lr0.001-beta0.5-signbatch",
                                         "layer16-seed1-lr0.001-beta0.1-signbatch",
                                         "layer16-seed1-lr0.001-beta0.5-signbatch",
                                         "layer16-seed2-lr0.001-beta0.1-signbatch",
                                         "layer16-seed2-lr0.001-beta0.5-signbatch",
                                     }));
}

TEST(Expand, CountIsTheProductAndNamesAreUnique) {
  const SweepAxes axes{
      {}, {1, 2, 3}, {1e-5, 1e-4, 1e-3, 1e-2}, {0.1, 0.2}, {"batch", "both", "plus"}};
  const auto cells = expand(axes, 7);
  const Texts all = names(cells);
  EXPECT_EQ(cells.size(), 7U * 3 * 4 * 2 * 3);
  EXPECT_EQ(std::set<std::string>(all.begin(), all.end()).size(), cells.size());
}

TEST(Expand, CellHoldsTheValuesOfItsName) {
  const std::uint64_t largest = std::numeric_limits<std::uint64_t>::max();
  const auto cells = expand({{{0, 0, 1}}, {largest}, {1e-5}, {0.1 + 0.2}, {"both"}}, 1);
  const Cell expected{
      0,      largest,
      1e-5,   0.1 + 0.2,
      "both", "layer0-seed18446744073709551615-lr1e-05-beta0.30000000000000004-signboth"};
  EXPECT_EQ(cells, std::vector<Cell>{expected});
}

TEST(Expand, OrderOfListedValuesDoesNotMatter) {
  const SweepAxes listed{
      {{15, 15, 1}, {5, 10, 5}}, {2, 11, 1}, {1e-3, 5e-4}, {0.5, 0.1}, {"plus", "batch"}};
  const SweepAxes sorted{{{5, 15, 5}}, {1, 2, 11}, {5e-4, 1e-3}, {0.1, 0.5}, {"batch", "plus"}};
  EXPECT_EQ(names(expand(listed, 30)), names(expand(sorted, 30)));
  EXPECT_EQ(layers_of(expand(axes_of({{15, 15, 1}, {5, 10, 5}}), 30)), (Layers{5, 10, 15}));
}

TEST(Expand, RangesIncludeTheirLastLayer) {
  EXPECT_EQ(layers_of(expand(axes_of({{5, 25, 5}}), 30)), (Layers{5, 10, 15, 20, 25}));
  EXPECT_EQ(layers_of(expand(axes_of({{5, 24, 5}}), 30)), (Layers{5, 10, 15, 20}));
  EXPECT_EQ(layers_of(expand(axes_of({{0, 2, 1}, {3, 3, 1}}), 4)), (Layers{0, 1, 2, 3}));
}

TEST(Expand, NoRangeMeansAllLayersTheLastBlockToo) {
  EXPECT_EQ(layers_of(expand(axes_of({}), 4)), (Layers{0, 1, 2, 3}));
}

TEST(Expand, NamesAllThatIsWrongAtOnce) {
  const SweepAxes axes{{{28, 36, 4}, {9, 5, 1}, {-2, 3, 1}, {40, 40, 1}, {1, 2, 0}},
                       {3, 4, 3, 3, 4},
                       {},
                       {0.1, 0.2, 0.10},
                       {"plus", "plus"}};
  EXPECT_EQ(
      expand_error(axes, 30),
      "--layers 9:5:1: a range is first:last:step, with first up to last and a step of at least 1; "
      "--layers 1:2:0: a range is first:last:step, with first up to last and a step of at least 1; "
      "--layers: 32:36:4, -2:3:1, 40: the model has 30 blocks, so layers go from 0 to 29; "
      "--seeds: 3, 4 given more than once; give each value once; "
      "--lrs: no value; give at least one; "
      "--betas: 0.1 given more than once; give each value once; "
      "--signs: plus given more than once; give each value once");
}

TEST(Expand, LayerOfTwoRangesIsADuplicate) {
  EXPECT_EQ(expand_error(axes_of({{5, 15, 5}, {10, 11, 1}, {15, 15, 1}}), 30),
            "--layers: 10, 15 given more than once; give each value once");
}

TEST(Expand, EndlessRangeIsRefusedWithoutListingIt) {
  const std::int64_t largest = std::numeric_limits<std::int64_t>::max();
  const std::int64_t smallest = std::numeric_limits<std::int64_t>::min();
  EXPECT_EQ(expand_error(axes_of({{0, largest, 1}, {smallest, largest, 1}}), 30),
            "--layers: 30:9223372036854775807:1, -9223372036854775808:9223372036854775807:1: the "
            "model has 30 blocks, so layers go from 0 to 29");
}

constexpr StepCost kThirtyBlocks{30, 3};

TEST(RelativeCost, BlocksAfterTheLayerAndTheHeadPerPass) {
  const auto cells =
      expand({{{5, 5, 1}, {29, 29, 1}}, {1}, {5e-4}, {0.1}, {"batch", "both", "plus"}}, 30);
  EXPECT_EQ(relative_cost(cells[0], kThirtyBlocks), 24 + 3);
  EXPECT_EQ(relative_cost(cells[1], kThirtyBlocks), 2 * (24 + 3));
  EXPECT_EQ(relative_cost(cells[2], kThirtyBlocks), 24 + 3);
  EXPECT_EQ(relative_cost(cells[3], kThirtyBlocks), 3);
}

TEST(MakePacks, OneVectorPerPassGivesEachCellItsOwnPackLowLayersFirst) {
  const auto packs = make_packs(expand(axes_of({{5, 15, 5}}, {1, 2}), 30), 1, kThirtyBlocks);
  EXPECT_EQ(names(packs), (Texts{
                              "layer5-seed1-lr0.0005-beta0.1-signbatch",
                              "layer5-seed2-lr0.0005-beta0.1-signbatch",
                              "layer10-seed1-lr0.0005-beta0.1-signbatch",
                              "layer10-seed2-lr0.0005-beta0.1-signbatch",
                              "layer15-seed1-lr0.0005-beta0.1-signbatch",
                              "layer15-seed2-lr0.0005-beta0.1-signbatch",
                          }));
}

// The hashes are FNV-1a of the members' names, a line each, computed by another program.
TEST(MakePacks, PacksOfOneLayerAreNamedByAHashOfTheirMembers) {
  const auto cells = expand(axes_of({{5, 10, 5}}, {1, 2}), 30);
  const auto packs = make_packs(cells, 8, kThirtyBlocks);
  EXPECT_EQ(names(packs),
            (Texts{"layer5-2cells-d9e39a72a8cf5248", "layer10-2cells-46214982f41f3ff2"}));
  EXPECT_EQ(names(packs[0].members), (Texts{"layer5-seed1-lr0.0005-beta0.1-signbatch",
                                            "layer5-seed2-lr0.0005-beta0.1-signbatch"}));
}

TEST(MakePacks, FullerPackOfAHigherLayerMayBeTheLongerOne) {
  // Costs: 3 x 27 and 2 x 27 at layer 5, 3 x 22 and 2 x 22 at layer 10.
  const auto packs =
      make_packs(expand(axes_of({{5, 10, 5}}, {1, 2, 3, 4, 5}), 30), 4, kThirtyBlocks);
  std::vector<std::pair<std::int64_t, std::size_t>> found;
  for (const Pack& pack : packs) {
    found.emplace_back(pack.members.front().layer, pack.members.size());
  }
  EXPECT_EQ(found,
            (std::vector<std::pair<std::int64_t, std::size_t>>{{5, 3}, {10, 3}, {5, 2}, {10, 2}}));
}

TEST(MakePacks, TwoPassesPerStepMakeACellLonger) {
  const auto cells = expand({{{5, 10, 5}}, {1}, {5e-4}, {0.1}, {"batch", "both"}}, 30);
  EXPECT_EQ(names(make_packs(cells, 1, kThirtyBlocks)),
            (Texts{
                "layer5-seed1-lr0.0005-beta0.1-signboth",    // 54
                "layer10-seed1-lr0.0005-beta0.1-signboth",   // 44
                "layer5-seed1-lr0.0005-beta0.1-signbatch",   // 27
                "layer10-seed1-lr0.0005-beta0.1-signbatch",  // 22
            }));
}

TEST(MakePacks, EveryCellOnceInTheFewestPacksOfEqualSizes) {
  for (std::uint64_t seeds = 1; seeds <= 9; ++seeds) {
    std::vector<std::uint64_t> seed_values;
    for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
      seed_values.push_back(seed);
    }
    const auto cells = expand(axes_of({{0, 2, 1}}, seed_values), 4);
    for (std::uint64_t most = 1; most <= 10; ++most) {
      SCOPED_TRACE(testing::Message() << seeds << " seeds, at most " << most);
      const std::uint64_t per_layer = seeds / most + (seeds % most > 0 ? 1 : 0);
      const auto packs = make_packs(cells, static_cast<std::int64_t>(most), {4, 1});
      EXPECT_EQ(packs.size(), 3 * per_layer);
      std::multiset<std::string> members;
      std::set<std::string> pack_names;
      for (const Pack& pack : packs) {
        pack_names.insert(pack.name);
        EXPECT_LE(pack.members.size(), most);
        EXPECT_GE(pack.members.size(), seeds / per_layer);
        EXPECT_LE(pack.members.size(), seeds / per_layer + 1);
        for (const Cell& cell : pack.members) {
          EXPECT_EQ(cell.layer, pack.members.front().layer);
          members.insert(cell.name);
        }
      }
      const Texts all = names(cells);
      EXPECT_EQ(members, std::multiset<std::string>(all.begin(), all.end()));
      EXPECT_EQ(pack_names.size(), packs.size());
    }
  }
}

TEST(MakePacks, WithoutRoomForAVectorIsABug) {
  EXPECT_THROW(make_packs({}, 0, kThirtyBlocks), BugError);
}

TEST(ChooseVectorsPerPass, FillsThePassAndIsAtLeastOne) {
  EXPECT_EQ(choose_vectors_per_pass(455), 5);  // 4 x 455 = 1820 tokens are too few
  EXPECT_EQ(choose_vectors_per_pass(512), 4);
  EXPECT_EQ(choose_vectors_per_pass(511), 5);
  EXPECT_EQ(choose_vectors_per_pass(2047), 2);
  EXPECT_EQ(choose_vectors_per_pass(2048), 1);
  EXPECT_EQ(choose_vectors_per_pass(100'000), 1);
  EXPECT_EQ(choose_vectors_per_pass(100, 1), 1);
  EXPECT_EQ(choose_vectors_per_pass(100, 0), 1);
  EXPECT_THROW(choose_vectors_per_pass(0), BugError);
}

SweepPlan small_plan(const std::string& settings = R"({"epochs":20,"model":"m"})") {
  SweepPlan plan;
  plan.settings = settings;
  plan.vectors_per_pass = 2;
  plan.cells = expand({{{1, 3, 2}}, {1, 2}, {5e-4}, {0.1}, {"batch"}}, 4);
  plan.cells.pop_back();
  plan.packs = make_packs(plan.cells, 2, {4, 1});
  return plan;
}

TEST(PlanToJson, HoldsSettingsCellsAndPacksInOrder) {
  SweepPlan plan;
  plan.settings = R"({"model":"m","epochs":20})";
  plan.vectors_per_pass = 3;
  plan.cells =
      expand({{{7, 7, 1}}, {18446744073709551615ULL}, {1e-5}, {0.1}, {"both"}}, /*blocks=*/8);
  plan.packs = make_packs(plan.cells, 3, {8, 1});
  EXPECT_EQ(plan_to_json(plan), R"({
  "schema_version": 1,
  "settings": {
    "model": "m",
    "epochs": 20
  },
  "vectors_per_pass": 3,
  "cells": [
    {
      "name": "layer7-seed18446744073709551615-lr1e-05-beta0.1-signboth",
      "layer": 7,
      "seed": 18446744073709551615,
      "lr": 1e-05,
      "beta": 0.1,
      "sign": "both"
    }
  ],
  "packs": [
    {
      "name": "layer7-seed18446744073709551615-lr1e-05-beta0.1-signboth",
      "members": [
        "layer7-seed18446744073709551615-lr1e-05-beta0.1-signboth"
      ]
    }
  ]
}
)");
}

TEST(PlanToJson, PacksNameTheirMembers) {
  const auto json = nlohmann::json::parse(plan_to_json(small_plan()));
  ASSERT_EQ(json["packs"].size(), 2U);
  EXPECT_EQ(json["packs"][0]["members"],
            (nlohmann::json{"layer1-seed1-lr0.0005-beta0.1-signbatch",
                            "layer1-seed2-lr0.0005-beta0.1-signbatch"}));
  EXPECT_EQ(json["packs"][1]["members"],
            nlohmann::json::array({"layer3-seed1-lr0.0005-beta0.1-signbatch"}));
}

std::string plan_error(const std::string& stored, const std::string& now) {
  return user_error([&] { check_same_plan(stored, now, "out/plan.json"); });
}

std::string other_plan_error(const std::string& differences) {
  return "out/plan.json: the sweep in this directory has another plan (" + differences +
         "); a plan is fixed when its sweep first starts, and cells are not added later: give the "
         "settings of that time, or another --out";
}

TEST(CheckSamePlan, EqualPlansPassInAnyLayoutOfTheText) {
  const std::string text = plan_to_json(small_plan());
  EXPECT_NO_THROW(check_same_plan(text, text, "out/plan.json"));
  const std::string sorted_in_one_line = nlohmann::json::parse(text).dump();
  ASSERT_NE(sorted_in_one_line, text);
  EXPECT_NO_THROW(check_same_plan(sorted_in_one_line, text, "out/plan.json"));
}

TEST(CheckSamePlan, ListsEachDifferentSetting) {
  const std::string stored =
      plan_to_json(small_plan(R"({"epochs":20,"model":"m","lr_unit":"absolute","old":1})"));
  SweepPlan changed = small_plan(R"({"lr_unit":"residual","model":"m","epochs":10,"new":"x"})");
  changed.vectors_per_pass = 5;
  EXPECT_EQ(plan_error(stored, plan_to_json(changed)),
            other_plan_error(R"(epochs was 20, now 10; lr_unit was "absolute", now "residual"; )"
                             R"(new was absent, now "x"; old was 1, now absent; )"
                             R"(vectors_per_pass was 2, now 5)"));
}

TEST(CheckSamePlan, ListsCellsThatCameAndWent) {
  const SweepPlan stored = small_plan();
  SweepPlan now = stored;
  now.cells = expand({{{2, 2, 1}, {3, 3, 1}}, {1, 2, 3}, {5e-4}, {0.1}, {"batch"}}, 4);
  now.packs = make_packs(now.cells, 2, {4, 1});
  EXPECT_EQ(plan_error(plan_to_json(stored), plan_to_json(now)),
            other_plan_error("2 cells less: layer1-seed1-lr0.0005-beta0.1-signbatch, "
                             "layer1-seed2-lr0.0005-beta0.1-signbatch; "
                             "5 cells more: layer2-seed1-lr0.0005-beta0.1-signbatch, "
                             "layer2-seed2-lr0.0005-beta0.1-signbatch, "
                             "layer2-seed3-lr0.0005-beta0.1-signbatch, "
                             "layer3-seed2-lr0.0005-beta0.1-signbatch, "
                             "layer3-seed3-lr0.0005-beta0.1-signbatch"));
}

TEST(CheckSamePlan, LongListsOfCellsAreCut) {
  SweepPlan stored = small_plan();
  stored.cells.clear();
  SweepPlan now = stored;
  now.cells = expand(axes_of({}), 9);
  EXPECT_EQ(plan_error(plan_to_json(stored), plan_to_json(now)),
            other_plan_error("9 cells more: layer0-seed1-lr0.0005-beta0.1-signbatch, "
                             "layer1-seed1-lr0.0005-beta0.1-signbatch, "
                             "layer2-seed1-lr0.0005-beta0.1-signbatch, "
                             "layer3-seed1-lr0.0005-beta0.1-signbatch, "
                             "layer4-seed1-lr0.0005-beta0.1-signbatch, ..."));
}

TEST(CheckSamePlan, OtherPacksOfTheSameCellsAreAnotherPlan) {
  const SweepPlan stored = small_plan();
  SweepPlan now = stored;
  std::swap(now.packs[0], now.packs[1]);
  EXPECT_EQ(plan_error(plan_to_json(stored), plan_to_json(now)),
            other_plan_error("the same cells stand in another order or in other packs"));
}

TEST(CheckSamePlan, RefusesWhatIsNoPlan) {
  const std::string now = plan_to_json(small_plan());
  const std::string expected =
      "out/plan.json: not the plan of a sweep, or damaged; bipo-dist writes it once and never "
      "changes it: restore it, or give another --out";
  for (const std::string& stored :
       {std::string(), now.substr(0, now.size() / 2), std::string("[1]"), std::string("7"),
        std::string("{}"), std::string(R"({"schema_version":"1"})"),
        std::string(R"({"schema_version":0})"), std::string(R"({"schema_version":1})"),
        std::string(R"({"schema_version":1,"settings":[],"cells":[],"vectors_per_pass":1})"),
        std::string(R"({"schema_version":1,"settings":{},"cells":{},"vectors_per_pass":1})"),
        std::string(R"({"schema_version":1,"settings":{},"cells":[],"vectors_per_pass":"1"})")}) {
    EXPECT_EQ(plan_error(stored, now), expected) << stored;
  }
}

TEST(CheckSamePlan, CellWithoutANameIsShownAsItStands) {
  const std::string now = plan_to_json(small_plan());
  auto stored = nlohmann::json::parse(now);
  stored["cells"].push_back(7);
  stored["cells"].push_back(nlohmann::json{{"name", 8}});
  EXPECT_EQ(plan_error(stored.dump(), now), other_plan_error(R"(2 cells less: 7, {"name":8})"));
}

TEST(CheckSamePlan, NewerSchemaNeedsTheNewerProgram) {
  EXPECT_EQ(plan_error(R"({"schema_version":2})", plan_to_json(small_plan())),
            "out/plan.json: a newer bipo-dist wrote this plan (schema 2; this one knows 1); "
            "continue the sweep with that version, or give another --out");
}

TEST(DescribePlan, ShowsPacksInOrderWithTheirCells) {
  // Four blocks and a head of one: steps cost 2 + 1 at layer 1 and 0 + 1 at layer 3, 7 in all.
  EXPECT_EQ(describe_plan(small_plan(), {4, 1}, 1536),
            "3 cells in 2 packs of at most 2 vectors, 4.5 KiB of run files\n"
            "\n"
            "  order     cost        disk  pack and its cells\n"
            "      1   85.71%     3.0 KiB  layer1-2cells-b412d1ac8d545898\n"
            "          42.86%     1.5 KiB    layer1-seed1-lr0.0005-beta0.1-signbatch\n"
            "          42.86%     1.5 KiB    layer1-seed2-lr0.0005-beta0.1-signbatch\n"
            "      2   14.29%     1.5 KiB  layer3-seed1-lr0.0005-beta0.1-signbatch\n");
}

TEST(DescribePlan, CountsOneWithoutAnS) {
  SweepPlan plan;
  plan.cells = expand(axes_of({{0, 0, 1}}), 1);
  plan.packs = make_packs(plan.cells, 1, {1, 2});
  EXPECT_EQ(describe_plan(plan, {1, 2}, 1000),
            "1 cell in 1 pack of at most 1 vector, 1000 B of run files\n"
            "\n"
            "  order     cost        disk  pack and its cells\n"
            "      1  100.00%      1000 B  layer0-seed1-lr0.0005-beta0.1-signbatch\n");
}

TEST(DescribePlan, UnitsOfDiskUseGrowWithIt) {
  SweepPlan plan;
  plan.cells = expand(axes_of({{0, 0, 1}}), 1);
  plan.packs = make_packs(plan.cells, 1, {1, 2});
  const std::pair<std::uint64_t, std::string> cases[] = {{1023, " 1023 B "},
                                                         {1024, " 1.0 KiB "},
                                                         {5U << 20, " 5.0 MiB "},
                                                         {std::uint64_t{7} << 30, " 7.0 GiB "},
                                                         {std::uint64_t{3} << 50, " 3072.0 TiB "}};
  for (const auto& [bytes, expected] : cases) {
    EXPECT_NE(describe_plan(plan, {1, 2}, bytes).find(expected), std::string::npos) << expected;
  }
}

}  // namespace
}  // namespace bipo
