// The plan of a sweep against counts, orders, names and texts worked out by hand.
#include "experiments/sweeps/sweep_plan.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "experiments/sweeps/stored_plan.hpp"

namespace bipo {
namespace {

using Texts = std::vector<std::string>;

// One model and one data set.
SweepAxes axes_of(std::vector<LayerRange> layers, std::vector<std::uint64_t> seeds,
                  std::vector<double> lrs = {5e-4}, std::vector<double> betas = {0.1},
                  std::vector<std::string> signs = {"batch"}) {
  SweepAxes axes;
  axes.models = {{"m", "models/m"}};
  axes.data = {{"d", "d.csv", ""}};
  axes.layers = std::move(layers);
  axes.seeds = std::move(seeds);
  axes.lrs = std::move(lrs);
  axes.betas = std::move(betas);
  axes.signs = std::move(signs);
  axes.epochs = {20};
  return axes;
}

SweepAxes axes_of(std::vector<LayerRange> layers) {
  return axes_of(std::move(layers), {1});
}

std::vector<Cell> expand(const SweepAxes& axes, std::int64_t blocks) {
  return expand(axes, std::vector<std::int64_t>{blocks});
}

std::vector<Pack> make_packs(const std::vector<Cell>& cells, std::int64_t most,
                             const CellCost& cost) {
  return make_packs(
      cells, [most](const Cell&) { return most; }, cost);
}

// Blocks after the layer and a head, per pass.
CellCost cost_of(std::int64_t blocks, double head) {
  return [=](const Cell& cell) {
    return (cell.sign == "both" ? 2 : 1) * (static_cast<double>(blocks - 1 - cell.layer) + head);
  };
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
  const SweepAxes axes = axes_of({{15, 16, 1}}, {1, 2}, {1e-3}, {0.1, 0.5}, {"batch"});
  EXPECT_EQ(names(expand(axes, 30)),
            (Texts{
                "m-d-layer15-seed1-lr0.001-beta0.1-signbatch-batch4-epochs20",
                "m-d-layer15-seed1-lr0.001-beta0.5-signbatch-batch4-epochs20",
                "m-d-layer15-seed2-lr0.001-beta0.1-signbatch-batch4-epochs20",
                "m-d-layer15-seed2-lr0.001-beta0.5-signbatch-batch4-epochs20",
                "m-d-layer16-seed1-lr0.001-beta0.1-signbatch-batch4-epochs20",
                "m-d-layer16-seed1-lr0.001-beta0.5-signbatch-batch4-epochs20",
                "m-d-layer16-seed2-lr0.001-beta0.1-signbatch-batch4-epochs20",
                "m-d-layer16-seed2-lr0.001-beta0.5-signbatch-batch4-epochs20",
            }));
}

TEST(Expand, CountIsTheProductAndNamesAreUnique) {
  const SweepAxes axes =
      axes_of({}, {1, 2, 3}, {1e-5, 1e-4, 1e-3, 1e-2}, {0.1, 0.2}, {"batch", "both", "plus"});
  const auto cells = expand(axes, 7);
  const Texts all = names(cells);
  EXPECT_EQ(cells.size(), 7U * 3 * 4 * 2 * 3);
  EXPECT_EQ(std::set<std::string>(all.begin(), all.end()).size(), cells.size());
}

TEST(Expand, CellHoldsTheValuesOfItsName) {
  const std::uint64_t largest = std::numeric_limits<std::uint64_t>::max();
  const auto cells = expand(axes_of({{0, 0, 1}}, {largest}, {1e-5}, {0.1 + 0.2}, {"both"}), 1);
  const Cell expected{"m",
                      "d",
                      0,
                      largest,
                      1e-5,
                      0.1 + 0.2,
                      "both",
                      4,
                      20,
                      "m-d-layer0-seed18446744073709551615-lr1e-05-beta0.30000000000000004-"
                      "signboth-batch4-epochs20"};
  EXPECT_EQ(cells, std::vector<Cell>{expected});
}

TEST(Expand, NamesSayAnotherObjective) {
  SweepAxes axes = axes_of({{0, 0, 1}}, {1}, {1e-3}, {0.1}, {"batch"});
  axes.objectives = {"simpo", "bipo"};
  axes.simpo_gammas = {0.25, 1};
  axes.label_smoothings = {0, 0.1};
  EXPECT_EQ(names(expand(axes, 1)),
            (Texts{
                "m-d-layer0-seed1-lr0.001-beta0.1-signbatch-batch4-epochs20",
                "m-d-layer0-seed1-lr0.001-beta0.1-signbatch-batch4-epochs20-smoothing0.1",
                "m-d-layer0-seed1-lr0.001-beta0.1-signbatch-batch4-epochs20-objectivesimpo-"
                "gamma0.25-reductionmean",
                "m-d-layer0-seed1-lr0.001-beta0.1-signbatch-batch4-epochs20-objectivesimpo-"
                "gamma1-reductionmean",
                "m-d-layer0-seed1-lr0.001-beta0.1-signbatch-batch4-epochs20-objectivesimpo-"
                "smoothing0.1-gamma0.25-reductionmean",
                "m-d-layer0-seed1-lr0.001-beta0.1-signbatch-batch4-epochs20-objectivesimpo-"
                "smoothing0.1-gamma1-reductionmean",
            }));
}

TEST(Expand, NamesSayOtherPositions) {
  SweepAxes axes = axes_of({{0, 0, 1}}, {1}, {1e-3}, {0.1}, {"batch"});
  axes.positions = {"first:2,last:10", "all", "answer"};
  const std::string name = "m-d-layer0-seed1-lr0.001-beta0.1-signbatch-batch4-epochs20";
  EXPECT_EQ(names(expand(axes, 1)),
            (Texts{name, name + "-positionsanswer", name + "-positionsfirst2last10"}));
}

TEST(Expand, AnObjectiveHasOneCellForWhatItDoesNotUse) {
  SweepAxes axes = axes_of({{0, 0, 1}}, {1}, {1e-3}, {0.1}, {"batch", "both"});
  axes.objectives = {"dpo", "ipo"};
  axes.reductions = {"auto", "mean"};
  const std::string name = "m-d-layer0-seed1-lr0.001-beta0.1-sign";
  EXPECT_EQ(names(expand(axes, 1)), (Texts{
                                        name + "plus-batch4-epochs20-objectivedpo-reductionsum",
                                        name + "plus-batch4-epochs20-objectivedpo-reductionmean",
                                        name + "batch-batch4-epochs20-objectiveipo-reductionmean",
                                        name + "both-batch4-epochs20-objectiveipo-reductionmean",
                                    }));
  axes.objectives = {"reps"};
  axes.reductions = {"auto"};
  EXPECT_EQ(names(expand(axes, 1)),
            Texts{name + "both-batch4-epochs20-objectivereps-reductionmean"});
  axes.objectives = {"orpo"};
  EXPECT_NE(expand_error(axes, 1).find("'orpo'"), std::string::npos);
}

TEST(Expand, NamesSaySettingsThatAreAxesAndNotTheUsualOnes) {
  SweepAxes axes = axes_of({{0, 0, 1}}, {1}, {1e-3}, {0.1}, {"batch"});
  axes.norms = {"free", "max:3%"};
  axes.factors = {"1", "0.5,1", "learned"};
  const std::string name = "m-d-layer0-seed1-lr0.001-beta0.1-signbatch-batch4-epochs20";
  const auto cells = expand(axes, 1);
  EXPECT_EQ(names(cells), (Texts{name + "-factors0.5+1", name, name + "-factorslearned",
                                 name + "-normmax3pct-factors0.5+1", name + "-normmax3pct",
                                 name + "-normmax3pct-factorslearned"}));
  EXPECT_EQ(cells.back().norm, "max:3%");
  EXPECT_EQ(cells.back().factors, "learned");
  EXPECT_EQ(cells.back().schedule, "cosine");
  SweepPlan plan;
  plan.settings = "{}";
  plan.cells = cells;
  plan.packs = make_packs(plan.cells, 8, cost_of(1, 1));
  EXPECT_EQ(plan.packs.size(), 1U) << "they share passes";
  const auto stored = nlohmann::json::parse(plan_to_json(plan))["cells"];
  EXPECT_EQ(stored[5]["norm"], "max:3%");
  EXPECT_FALSE(stored[1].contains("norm") || stored[1].contains("factors"));
}

TEST(Expand, OrderOfListedValuesDoesNotMatter) {
  const SweepAxes listed =
      axes_of({{15, 15, 1}, {5, 10, 5}}, {2, 11, 1}, {1e-3, 5e-4}, {0.5, 0.1}, {"plus", "batch"});
  const SweepAxes sorted =
      axes_of({{5, 15, 5}}, {1, 2, 11}, {5e-4, 1e-3}, {0.1, 0.5}, {"batch", "plus"});
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
  const SweepAxes axes = axes_of({{28, 36, 4}, {9, 5, 1}, {-2, 3, 1}, {40, 40, 1}, {1, 2, 0}},
                                 {3, 4, 3, 3, 4}, {}, {0.1, 0.2, 0.10}, {"plus", "plus"});
  EXPECT_EQ(
      expand_error(axes, 30),
      "--layers 9:5:1: a range is first:last:step, with first up to last and a step of at least 1; "
      "--layers 1:2:0: a range is first:last:step, with first up to last and a step of at least 1; "
      "--layers: 32:36:4, -2:3:1, 40: the model m has 30 blocks, so layers go from 0 to 29; "
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
            "model m has 30 blocks, so layers go from 0 to 29");
}

const CellCost kThirtyBlocks = cost_of(30, 3);

TEST(MakePacks, OneVectorPerPassGivesEachCellItsOwnPackLowLayersFirst) {
  const auto packs = make_packs(expand(axes_of({{5, 15, 5}}, {1, 2}), 30), 1, kThirtyBlocks);
  EXPECT_EQ(names(packs), (Texts{
                              "m-d-layer5-seed1-lr0.0005-beta0.1-signbatch-batch4-epochs20",
                              "m-d-layer5-seed2-lr0.0005-beta0.1-signbatch-batch4-epochs20",
                              "m-d-layer10-seed1-lr0.0005-beta0.1-signbatch-batch4-epochs20",
                              "m-d-layer10-seed2-lr0.0005-beta0.1-signbatch-batch4-epochs20",
                              "m-d-layer15-seed1-lr0.0005-beta0.1-signbatch-batch4-epochs20",
                              "m-d-layer15-seed2-lr0.0005-beta0.1-signbatch-batch4-epochs20",
                          }));
}

// The hashes are FNV-1a of the members' names, a line each, computed by another program.
TEST(MakePacks, PacksOfOneLayerAreNamedByAHashOfTheirMembers) {
  const auto cells = expand(axes_of({{5, 10, 5}}, {1, 2}), 30);
  const auto packs = make_packs(cells, 8, kThirtyBlocks);
  EXPECT_EQ(names(packs),
            (Texts{"m-d-layer5-2cells-a556dddb3b5ebfe8", "m-d-layer10-2cells-11ac7705b9791288"}));
  EXPECT_EQ(names(packs[0].members),
            (Texts{"m-d-layer5-seed1-lr0.0005-beta0.1-signbatch-batch4-epochs20",
                   "m-d-layer5-seed2-lr0.0005-beta0.1-signbatch-batch4-epochs20"}));
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
  const auto cells = expand(axes_of({{5, 10, 5}}, {1}, {5e-4}, {0.1}, {"batch", "both"}), 30);
  EXPECT_EQ(names(make_packs(cells, 1, kThirtyBlocks)),
            (Texts{
                "m-d-layer5-seed1-lr0.0005-beta0.1-signboth-batch4-epochs20",    // 54
                "m-d-layer10-seed1-lr0.0005-beta0.1-signboth-batch4-epochs20",   // 44
                "m-d-layer5-seed1-lr0.0005-beta0.1-signbatch-batch4-epochs20",   // 27
                "m-d-layer10-seed1-lr0.0005-beta0.1-signbatch-batch4-epochs20",  // 22
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
      const auto packs = make_packs(cells, static_cast<std::int64_t>(most), cost_of(4, 1));
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
  EXPECT_THROW(make_packs(expand(axes_of({}), 1), 0, kThirtyBlocks), BugError);
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
  plan.cells = expand(axes_of({{1, 3, 2}}, {1, 2}, {5e-4}, {0.1}, {"batch"}), 4);
  plan.cells.pop_back();
  plan.packs = make_packs(plan.cells, 2, cost_of(4, 1));
  return plan;
}

TEST(PlanToJson, HoldsSettingsCellsAndPacksInOrder) {
  SweepPlan plan;
  plan.settings = R"({"model":"m","epochs":20})";
  plan.vectors_per_pass = 3;
  plan.cells = expand(axes_of({{7, 7, 1}}, {18446744073709551615ULL}, {1e-5}, {0.1}, {"both"}), 8);
  plan.packs = make_packs(plan.cells, 3, cost_of(8, 1));
  EXPECT_EQ(plan_to_json(plan), R"({
  "schema_version": 1,
  "settings": {
    "model": "m",
    "epochs": 20
  },
  "vectors_per_pass": 3,
  "cells": [
    {
      "name": "m-d-layer7-seed18446744073709551615-lr1e-05-beta0.1-signboth-batch4-epochs20",
      "model": "m",
      "data": "d",
      "layer": 7,
      "seed": 18446744073709551615,
      "lr": 1e-05,
      "beta": 0.1,
      "sign": "both",
      "batch_size": 4,
      "epochs": 20
    }
  ],
  "packs": [
    {
      "name": "m-d-layer7-seed18446744073709551615-lr1e-05-beta0.1-signboth-batch4-epochs20",
      "members": [
        "m-d-layer7-seed18446744073709551615-lr1e-05-beta0.1-signboth-batch4-epochs20"
      ]
    }
  ]
}
)");
}  // namespace

// A plan of cells of the usual objective is as an earlier version's, which has no other.
TEST(PlanToJson, SaysWhatIsNotTheUsualObjective) {
  SweepAxes axes = axes_of({{0, 0, 1}}, {1}, {1e-3}, {0.1}, {"batch"});
  axes.objectives = {"bipo", "simpo"};
  SweepPlan plan;
  plan.settings = "{}";
  plan.cells = expand(axes, 1);
  plan.packs = make_packs(plan.cells, 8, cost_of(1, 1));
  ASSERT_EQ(plan.packs.size(), 1U) << "objectives share passes";
  const auto cells = nlohmann::json::parse(plan_to_json(plan))["cells"];
  EXPECT_FALSE(cells[0].contains("objective") || cells[0].contains("reduction"));
  EXPECT_EQ(cells[1]["objective"], "simpo");
  EXPECT_EQ(cells[1]["reduction"], "mean");
  EXPECT_FALSE(cells[1].contains("simpo_gamma")) << "the usual one";
}

TEST(PlanToJson, PacksNameTheirMembers) {
  const auto json = nlohmann::json::parse(plan_to_json(small_plan()));
  ASSERT_EQ(json["packs"].size(), 2U);
  EXPECT_EQ(json["packs"][0]["members"],
            (nlohmann::json{"m-d-layer1-seed1-lr0.0005-beta0.1-signbatch-batch4-epochs20",
                            "m-d-layer1-seed2-lr0.0005-beta0.1-signbatch-batch4-epochs20"}));
  EXPECT_EQ(json["packs"][1]["members"],
            nlohmann::json::array({"m-d-layer3-seed1-lr0.0005-beta0.1-signbatch-batch4-epochs20"}));
}

std::string plan_error(const std::string& stored, const SweepPlan& now) {
  return user_error([&] { fit_plan(stored, now, "out/plan.json"); });  // "no error" for none
}

std::string other_plan_error(const std::string& differences) {
  return "out/plan.json: the sweep in this directory has another plan (" + differences +
         "); a sweep that has begun can get more cells, by more values of its axes, but keeps "
         "those that it has and their settings: give these too, or another --out";
}

TEST(FitPlan, EqualPlansPassInAnyLayoutOfTheText) {
  const std::string text = plan_to_json(small_plan());
  const std::string sorted_in_one_line = nlohmann::json::parse(text).dump();
  ASSERT_NE(sorted_in_one_line, text);
  for (const std::string& stored : {text, sorted_in_one_line}) {
    const PlanFit fit = fit_plan(stored, small_plan(), "out/plan.json");
    EXPECT_EQ(fit.revision, 1);
    EXPECT_EQ(fit.added, Texts());
    EXPECT_EQ(fit.later, Texts());
  }
}

TEST(FitPlan, ListsEachDifferentSetting) {
  const std::string stored =
      plan_to_json(small_plan(R"({"epochs":20,"model":"m","lr_unit":"absolute","old":1})"));
  SweepPlan changed = small_plan(R"({"lr_unit":"residual","model":"m","epochs":10,"new":"x"})");
  changed.vectors_per_pass = 5;
  EXPECT_EQ(
      plan_error(stored, changed),
      other_plan_error(R"(--epochs was 20, now 10; --lr-unit was "absolute", now "residual"; )"
                       R"(--new was absent, now "x"; --old was 1, now absent; )"
                       R"(--vectors-per-pass was 2, now 5)"));
}

// For all cells, or, where they differ, for those of each model.
TEST(FitPlan, ComparesWeightsWhereBothPlansSayWhich) {
  const std::string old_text =
      plan_to_json(small_plan(R"({"epochs":20,"inputs":[{"model":"m"}]})"));
  const auto plan_with = [](const std::string& common, const std::string& of_inputs) {
    return small_plan(R"({"epochs":20)" + common + R"(,"inputs":[{"model":"m")" + of_inputs +
                      "}]}");
  };
  const auto text_with = [&](const std::string& common, const std::string& of_inputs) {
    return plan_to_json(plan_with(common, of_inputs));
  };
  const std::string one = R"(,"weights_hash":"1")";
  const std::string two = R"(,"weights_hash":"2")";
  EXPECT_EQ(plan_error(old_text, plan_with(one, "")), "no error");
  EXPECT_EQ(plan_error(old_text, plan_with("", one)), "no error");
  EXPECT_EQ(plan_error(text_with(one, ""), plan_with(one, "")), "no error");
  EXPECT_EQ(plan_error(text_with(one, ""), plan_with("", one)), "no error");
  EXPECT_EQ(plan_error(text_with(one, ""), plan_with("", "")), "no error") << "as in a dry run";
  EXPECT_EQ(plan_error(text_with(one, ""), plan_with(two, "")),
            other_plan_error(R"(the model's weights: weights_hash was "1", now "2")"));
  EXPECT_NE(plan_error(text_with("", one), plan_with("", two)), "no error");
}

// A value of several layers is one cell, behind the cell of its lowest layer alone.
TEST(Expand, JointLayersAreOneCell) {
  const std::vector<Cell> cells =
      expand(axes_of({{5, 5, 1, {5, 20}}, {5, 5, 1}, {10, 10, 1}, {5, 5, 1, {5, 10, 20}}}), 30);
  EXPECT_EQ(layers_of(cells), (Layers{5, 5, 5, 10}));
  EXPECT_EQ(cells[0].joint_layers, "");
  EXPECT_EQ(cells[1].joint_layers, "5+10+20");
  EXPECT_EQ(cells[2].joint_layers, "5+20");
  EXPECT_EQ(cells[2].name, "m-d-layer5+20-seed1-lr0.0005-beta0.1-signbatch-batch4-epochs20");
  EXPECT_EQ(to_string(steered_layers(cells[1])), "5,10,20");
  EXPECT_EQ(steered_layers(cells[3]), SteeredLayers(10));
  EXPECT_EQ(make_packs(cells, 8, cost_of(30, 1)).size(), 4U) << "each has passes of its own";
  Cell damaged = cells[1];
  for (const char* text : {"5+", "5", "5+x", "5+5", "10+20", "5,10"}) {
    damaged.joint_layers = text;
    EXPECT_THROW(steered_layers(damaged), UserError) << text;
  }
}

TEST(Expand, JointLayersMustBeDifferentOnesOfTheModel) {
  const auto refusal = [](const std::vector<LayerRange>& layers) {
    try {
      expand(axes_of(layers), 30);
    } catch (const UserError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(refusal({{5, 5, 1, {5, 30}}}),
            "--layers: 5+30: the model m has 30 blocks, so layers go from 0 to 29");
  EXPECT_EQ(refusal({{5, 5, 1, {5, 9}}, {5, 5, 1, {5, 9}}}),
            "--layers: 5+9 given more than once; give each value once");
  EXPECT_THROW(expand_layers({{5, 5, 1, {5, 9}}}, "m", 30), UserError);
}

// A plan holds them where there are some, so that the plans of others are as before.
TEST(StoredPlan, HoldsJointLayers) {
  SweepPlan plan;
  plan.settings = "{}";
  plan.cells = expand(axes_of({{5, 5, 1}, {5, 5, 1, {5, 20}}}), 30);
  const nlohmann::json json = nlohmann::json::parse(plan_to_json(plan));
  EXPECT_FALSE(json["cells"][0].contains("joint_layers"));
  EXPECT_EQ(json["cells"][1]["joint_layers"], "5+20");
  EXPECT_EQ(json["cells"][1]["layer"], 5);
}

SweepPlan plan_over(const std::vector<LayerRange>& layers, const std::vector<std::uint64_t>& seeds,
                    const std::string& settings = R"({"epochs":20,"model":"m"})") {
  SweepPlan plan;
  plan.settings = settings;
  plan.vectors_per_pass = 2;
  plan.cells = expand(axes_of(layers, seeds), 8);
  plan.packs = make_packs(plan.cells, 2, cost_of(8, 1));
  return plan;
}

std::string name_of(std::int64_t layer, std::uint64_t seed) {
  return "m-d-layer" + std::to_string(layer) + "-seed" + std::to_string(seed) +
         "-lr0.0005-beta0.1-signbatch-batch4-epochs20";
}

// The next revision of a plan, whose new cells are packed by themselves.
std::string grown(const std::string& stored, const SweepPlan& now) {
  const PlanFit fit = fit_plan(stored, now, "out/plan.json");
  std::vector<Cell> added;
  for (const Cell& cell : now.cells) {
    if (std::find(fit.added.begin(), fit.added.end(), cell.name) != fit.added.end()) {
      added.push_back(cell);
    }
  }
  return extended_plan(stored, now, make_packs(added, 2, cost_of(8, 1)), "2026-01-02T03:04:05Z");
}

TEST(FitPlan, CellsThatOnlyComeAreAdded) {
  const SweepPlan now = plan_over({{1, 2, 1}}, {1, 2, 3});
  const PlanFit fit = fit_plan(plan_to_json(plan_over({{1, 1, 1}}, {1, 2})), now, "out/plan.json");
  EXPECT_EQ(fit.revision, 1);
  EXPECT_EQ(fit.added, (Texts{name_of(1, 3), name_of(2, 1), name_of(2, 2), name_of(2, 3)}));
  EXPECT_EQ(fit.later, Texts());
  EXPECT_EQ(describe_added(now, fit.added), "layer 2; seed 3");
  EXPECT_EQ(describe_added(now, {name_of(2, 3)}), "") << "others have both values";
}

TEST(FitPlan, CellsThatGoAreNamed) {
  EXPECT_EQ(plan_error(plan_to_json(plan_over({{1, 3, 1}}, {1})), plan_over({{1, 3, 2}}, {1, 2})),
            other_plan_error("1 cell less: " + name_of(2, 1) + "; 2 cells more: " + name_of(1, 2) +
                             ", " + name_of(3, 2)));
}

TEST(FitPlan, LongListsOfCellsAreCut) {
  EXPECT_EQ(
      plan_error(plan_to_json(plan_over({{0, 7, 1}}, {1})), plan_over({{7, 7, 1}}, {1})),
      other_plan_error("7 cells less: " + name_of(0, 1) + ", " + name_of(1, 1) + ", " +
                       name_of(2, 1) + ", " + name_of(3, 1) + ", " + name_of(4, 1) + ", ..."));
}

TEST(FitPlan, ACellThatComesTwiceIsDamage) {
  auto stored = nlohmann::json::parse(plan_to_json(plan_over({{1, 1, 1}}, {1})));
  stored["cells"].push_back(stored["cells"][0]);
  EXPECT_NE(plan_error(stored.dump(), plan_over({{1, 1, 1}}, {1})).find("comes twice"),
            std::string::npos);
}

TEST(FitPlan, ACellWithOtherValuesIsAnotherPlan) {
  auto stored = nlohmann::json::parse(plan_to_json(plan_over({{1, 1, 1}}, {1})));
  stored["cells"][0]["lr"] = 0.25;
  EXPECT_EQ(plan_error(stored.dump(), plan_over({{1, 1, 1}}, {1})),
            other_plan_error("--lr of " + name_of(1, 1) + " was 0.25, now 0.0005"));
}

// A second data set makes settings differ that all cells shared before.
TEST(FitPlan, SettingsMayMoveToThoseOfAModelAndDataSet) {
  const std::string shared =
      R"({"epochs":20,"train_pairs":60,"inputs":[{"model":"m","data":"d"}]})";
  const std::string stored = plan_to_json(plan_over({{1, 1, 1}}, {1}, shared));
  const auto with_second = [](const std::string& pairs) {
    SweepPlan now = plan_over({{1, 1, 1}}, {1});
    now.settings = R"({"epochs":20,"inputs":[{"model":"m","data":"d","train_pairs":)" + pairs +
                   R"(},{"model":"m","data":"e","train_pairs":7}]})";
    Cell second = now.cells.front();
    second.data = "e";
    second.name = "m-e-layer1";
    now.cells.push_back(second);
    now.packs = make_packs(now.cells, 2, cost_of(8, 1));
    return now;
  };
  EXPECT_EQ(fit_plan(stored, with_second("60"), "out/plan.json").added, Texts{"m-e-layer1"});
  EXPECT_EQ(plan_error(stored, with_second("61")),
            other_plan_error("the pairs of --train: train_pairs was 60, now 61"));
  const std::string both = plan_to_json(with_second("60"));
  EXPECT_EQ(plan_error(both, with_second("61")),
            other_plan_error("the pairs of --train: train_pairs was 60, now 61 (m with d)"));
}

TEST(ExtendedPlan, KeepsPacksAndSaysWhatEachRevisionAdded) {
  const SweepPlan first = plan_over({{1, 2, 1}}, {1, 2});
  const SweepPlan second = plan_over({{1, 2, 1}}, {1, 2, 3});
  const SweepPlan third = plan_over({{1, 3, 1}}, {1, 2, 3});
  const std::string before = plan_to_json(first);
  const std::string text = grown(grown(before, second), third);
  const auto json = nlohmann::json::parse(text);
  EXPECT_EQ(json["revision"], 3);
  ASSERT_EQ(json["revisions"].size(), 2U);
  EXPECT_EQ(json["revisions"][0], (nlohmann::json{{"revision", 2},
                                                  {"utc", "2026-01-02T03:04:05Z"},
                                                  {"added", {name_of(1, 3), name_of(2, 3)}}}));
  EXPECT_EQ(json["revisions"][1]["added"],
            (nlohmann::json{name_of(3, 1), name_of(3, 2), name_of(3, 3)}));
  const auto old_json = nlohmann::json::parse(before);
  for (const char* list : {"cells", "packs"}) {
    ASSERT_GT(json[list].size(), old_json[list].size());
    for (std::size_t i = 0; i < old_json[list].size(); ++i) {
      EXPECT_EQ(json[list][i], old_json[list][i]);
    }
  }

  // Each earlier revision is one of it, with its own packs; others are not.
  EXPECT_EQ(fit_plan(text, third, "out/plan.json").later, Texts());
  const PlanFit of_second = fit_plan(text, second, "out/plan.json");
  EXPECT_EQ(of_second.revision, 3);
  EXPECT_EQ(of_second.later.size(), 3U);
  EXPECT_EQ(fit_plan(text, first, "out/plan.json").later.size(), 5U);
  EXPECT_NE(plan_error(text, plan_over({{1, 1, 1}}, {1, 2})), "no error");
  EXPECT_NE(plan_error(text, plan_over({{1, 2, 1}}, {1, 3})), "no error");
  EXPECT_EQ(packs_in_plan(text, first.cells, "out/plan.json"), first.packs);
  std::multiset<std::string> members;
  for (const Pack& pack : packs_in_plan(text, third.cells, "out/plan.json")) {
    for (const Cell& cell : pack.members) {
      members.insert(cell.name);
    }
  }
  const Texts all = names(third.cells);
  EXPECT_EQ(members, std::multiset<std::string>(all.begin(), all.end()));
}

TEST(PacksInPlan, OfOtherCellsAreADamagedPlan) {
  const SweepPlan plan = plan_over({{1, 2, 1}}, {1, 2});
  auto json = nlohmann::json::parse(plan_to_json(plan));
  const auto error = [&] {
    return user_error([&] { packs_in_plan(json.dump(), plan.cells, "out/plan.json"); });
  };
  EXPECT_EQ(error(), "no error");
  std::swap(json["packs"][0]["members"][1], json["packs"][1]["members"][0]);
  EXPECT_NE(error().find("out/plan.json: damaged"), std::string::npos) << "two layers in a pack";
  json = nlohmann::json::parse(plan_to_json(plan));
  json["packs"][0]["name"] = "another";
  EXPECT_NE(error().find("out/plan.json: damaged"), std::string::npos) << "claims have its name";
  json["packs"].erase(1);
  EXPECT_NE(error().find("out/plan.json: damaged"), std::string::npos) << "cells without a pack";
  json["packs"] = 7;
  EXPECT_NE(error().find("out/plan.json: damaged"), std::string::npos);
}

TEST(FitPlan, RefusesWhatIsNoPlan) {
  const std::string now = plan_to_json(small_plan());
  const std::string expected =
      "out/plan.json: not the plan of a sweep, or damaged; restore it, or give another --out";
  for (const std::string& stored :
       {std::string(), now.substr(0, now.size() / 2), std::string("[1]"), std::string("7"),
        std::string("{}"), std::string(R"({"schema_version":"1"})"),
        std::string(R"({"schema_version":0})"), std::string(R"({"schema_version":1})"),
        std::string(R"({"schema_version":1,"settings":[],"cells":[],"vectors_per_pass":1})"),
        std::string(R"({"schema_version":1,"settings":{},"cells":{},"vectors_per_pass":1})"),
        std::string(R"({"schema_version":1,"settings":{},"cells":[],"vectors_per_pass":"1"})")}) {
    EXPECT_EQ(plan_error(stored, small_plan()), expected) << stored;
  }
}

TEST(FitPlan, CellWithoutANameIsShownAsItStands) {
  auto stored = nlohmann::json::parse(plan_to_json(small_plan()));
  stored["cells"].push_back(7);
  stored["cells"].push_back(nlohmann::json{{"name", 8}});
  EXPECT_EQ(plan_error(stored.dump(), small_plan()),
            other_plan_error(R"(2 cells less: 7, {"name":8})"));
}

TEST(FitPlan, NewerSchemaNeedsTheNewerProgram) {
  EXPECT_EQ(plan_error(R"({"schema_version":2})", small_plan()),
            "out/plan.json: a newer bipo-dist wrote this plan (schema 2; this one knows 1); "
            "continue the sweep with that version, or give another --out");
}

std::string described(const SweepPlan& plan, const CellCost& cost, std::uint64_t bytes) {
  return describe_plan(plan, cost, [bytes](const Cell&) { return bytes; });
}

TEST(DescribePlan, ShowsPacksInOrderWithTheirCells) {
  // Four blocks and a head of one, in units of 1e11 operations: 2 + 1 at layer 1, 0 + 1 at
  // layer 3.
  const CellCost cost = [](const Cell& cell) { return 1e11 * cost_of(4, 1)(cell); };
  EXPECT_EQ(described(small_plan(), cost, 1536),
            "3 cells in 2 packs, 700.0 GFLOP in all, 4.5 KiB of run files\n"
            "\n"
            "  order          cost     share        disk  pack and its cells\n"
            "      1   600.0 GFLOP    85.71%     3.0 KiB  m-d-layer1-2cells-3da8f86c03ae0530\n"
            "          300.0 GFLOP    42.86%     1.5 KiB    "
            "m-d-layer1-seed1-lr0.0005-beta0.1-signbatch-batch4-epochs20\n"
            "          300.0 GFLOP    42.86%     1.5 KiB    "
            "m-d-layer1-seed2-lr0.0005-beta0.1-signbatch-batch4-epochs20\n"
            "      2   100.0 GFLOP    14.29%     1.5 KiB  "
            "m-d-layer3-seed1-lr0.0005-beta0.1-signbatch-batch4-epochs20\n");
}

TEST(DescribePlan, CountsOneWithoutAnSAndScalesTheUnit) {
  SweepPlan plan;
  plan.cells = expand(axes_of({{0, 0, 1}}), 1);
  plan.packs = make_packs(plan.cells, 1, cost_of(1, 2));
  EXPECT_EQ(described(
                plan, [](const Cell&) { return 2.5e15; }, 1000),
            "1 cell in 1 pack, 2.5 PFLOP in all, 1000 B of run files\n"
            "\n"
            "  order          cost     share        disk  pack and its cells\n"
            "      1     2.5 PFLOP   100.00%      1000 B  "
            "m-d-layer0-seed1-lr0.0005-beta0.1-signbatch-batch4-epochs20\n");
}

TEST(Expand, ModelsAndDataComeFirstInTheOrderOfTheirNames) {
  SweepAxes axes = axes_of({{0, 1, 1}}, {7});
  axes.models = {{"small", "models/small"}, {"large", "models/large"}};
  axes.data = {{"warm", "w.csv", ""}, {"curt", "c.csv", "t.csv"}};
  Texts expected;
  for (const char* model : {"large", "small"}) {
    for (const char* data : {"curt", "warm"}) {
      for (const char* layer : {"0", "1"}) {
        expected.push_back(std::string(model) + "-" + data + "-layer" + layer +
                           "-seed7-lr0.0005-beta0.1-signbatch-batch4-epochs20");
      }
    }
  }
  EXPECT_EQ(names(expand(axes, std::vector<std::int64_t>{2, 3})), expected);
}

TEST(Expand, AllLayersAreThoseOfEachModel) {
  SweepAxes axes = axes_of({}, {7});
  axes.models = {{"a", "a"}, {"b", "b"}};
  EXPECT_EQ(layers_of(expand(axes, std::vector<std::int64_t>{3, 2})), (Layers{0, 1, 2, 0, 1}));
}

TEST(Expand, LayersThatOneModelLacksAreNamedWithIt) {
  SweepAxes axes = axes_of({{1, 5, 2}}, {7});
  axes.models = {{"deep", "a"}, {"flat", "b"}, {"thin", "c"}};
  EXPECT_EQ(user_error([&] {
              expand(axes, std::vector<std::int64_t>{6, 4, 1});
            }),
            "--layers: 5: the model flat has 4 blocks, so layers go from 0 to 3; "
            "--layers: 1:5:2: the model thin has 1 blocks, so layers go from 0 to 0");
}

TEST(Expand, BatchSizesAndEpochsAreAxes) {
  SweepAxes axes = axes_of({{0, 0, 1}}, {1});
  axes.batch_sizes = {8, 4};
  axes.epochs = {2, 1};
  EXPECT_EQ(names(expand(axes, 1)),
            (Texts{"m-d-layer0-seed1-lr0.0005-beta0.1-signbatch-batch4-epochs1",
                   "m-d-layer0-seed1-lr0.0005-beta0.1-signbatch-batch4-epochs2",
                   "m-d-layer0-seed1-lr0.0005-beta0.1-signbatch-batch8-epochs1",
                   "m-d-layer0-seed1-lr0.0005-beta0.1-signbatch-batch8-epochs2"}));
}

TEST(MakePacks, NeverMixModelsDataBatchSizesOrEpochs) {
  SweepAxes axes = axes_of({{0, 1, 1}}, {1, 2, 3});
  axes.models = {{"a", "a"}, {"b", "b"}};
  axes.data = {{"x", "x", ""}, {"y", "y", ""}};
  axes.batch_sizes = {4, 8};
  axes.epochs = {1, 2};
  const auto packs = make_packs(expand(axes, std::vector<std::int64_t>{2, 2}), 10, cost_of(2, 1));
  EXPECT_EQ(packs.size(), 2U * 2 * 2 * 2 * 2);
  for (const Pack& pack : packs) {
    ASSERT_EQ(pack.members.size(), 3U);
    for (const Cell& cell : pack.members) {
      Cell expected = pack.members.front();
      expected.seed = cell.seed;
      expected.name = cell.name;
      EXPECT_EQ(cell, expected);
    }
  }
}

}  // namespace
}  // namespace bipo
