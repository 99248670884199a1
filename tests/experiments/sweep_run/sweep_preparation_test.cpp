// What is decided about a sweep over a small model by one rank, against cells and packs listed by
// hand.
#include "experiments/sweep_run/sweep_preparation.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "experiments/training/run_record.hpp"
#include "tests/support/errors.hpp"
#include "tests/support/lone_session.hpp"
#include "tests/support/model_directory.hpp"

namespace bipo {
namespace {

using testing::error_of;
using testing::expect_parts;
using testing::lone_session;

class SweepPreparationTest : public testing::ModelDirectory {
 protected:
  SweepOptions options() const {
    SweepOptions options;
    options.axes.models = {{"m", model()}};
    options.axes.data = {{"d", train(), test()}};
    options.axes.layers = {{0, 1, 1}};
    options.axes.seeds = {1, 2};
    options.axes.lrs = {0.25, 0.5};
    options.out = directory_ / "sweep";
    options.device = DeviceKind::kCpu;
    options.template_date = testing::kSomeDate;
    options.warmup_steps = 5;
    return options;
  }

  static SweepPreparation prepare(const SweepOptions& options) {
    return prepare_sweep(options, lone_session());
  }
};

std::size_t occurrences(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
    ++count;
  }
  return count;
}

// Layer, seed and rate of each cell.
using Place = std::tuple<std::int64_t, std::uint64_t, double>;

std::vector<Place> places(const std::vector<Cell>& cells) {
  std::vector<Place> result;
  for (const Cell& cell : cells) {
    result.emplace_back(cell.layer, cell.seed, cell.lr);
  }
  return result;
}

TEST_F(SweepPreparationTest, MakesACellOfEachCombination) {
  const SweepPreparation sweep = prepare(options());
  EXPECT_EQ(places(sweep.plan.cells), (std::vector<Place>{{0, 1, 0.25},
                                                          {0, 1, 0.5},
                                                          {0, 2, 0.25},
                                                          {0, 2, 0.5},
                                                          {1, 1, 0.25},
                                                          {1, 1, 0.5},
                                                          {1, 2, 0.25},
                                                          {1, 2, 0.5}}));
  for (const Cell& cell : sweep.plan.cells) {
    EXPECT_EQ(cell.model, "m");
    EXPECT_EQ(cell.data, "d");
    EXPECT_EQ(cell.sign, "batch");
    EXPECT_EQ(cell.batch_size, 4);
    EXPECT_EQ(cell.epochs, 3);
  }
}

// Four cells of a layer: with at most three in a pack, two and two.  Layer 0 costs more.
TEST_F(SweepPreparationTest, PacksCellsOfALayerEvenlyWithTheLongestFirst) {
  SweepOptions given = options();
  given.vectors_per_pass = 3;
  const SweepPreparation sweep = prepare(given);
  ASSERT_EQ(sweep.plan.packs.size(), 4U);
  for (std::size_t i = 0; i < 4; ++i) {
    const std::vector<Cell>& members = sweep.plan.packs[i].members;
    EXPECT_EQ(members.size(), 2U);
    for (const Cell& member : members) {
      EXPECT_EQ(member.layer, i < 2 ? 0 : 1);
    }
  }
}

// The pairs are far shorter than what fills a pass.
TEST_F(SweepPreparationTest, PacksAllCellsOfALayerByItself) {
  const SweepPreparation sweep = prepare(options());
  ASSERT_EQ(sweep.plan.packs.size(), 2U);
  EXPECT_EQ(sweep.plan.packs[0].members.size(), 4U);
  EXPECT_EQ(sweep.plan.packs[1].members.size(), 4U);
}

TEST_F(SweepPreparationTest, ACellThatTrainsBothWaysCostsTwice) {
  SweepOptions given = options();
  given.axes.layers = {{1, 1, 1}};
  given.axes.seeds = {1};
  given.axes.lrs = {0.5};
  given.axes.signs = {"batch", "both"};
  given.axes.epochs = {1, 3};
  const SweepPreparation sweep = prepare(given);
  const auto cost = [&](const std::string& sign, std::int64_t epochs) {
    for (const Cell& cell : sweep.plan.cells) {
      if (cell.sign == sign && cell.epochs == epochs) {
        return cell_cost(sweep, cell);
      }
    }
    throw BugError("no such cell");
  };
  EXPECT_GT(cost("batch", 1), 0);
  EXPECT_DOUBLE_EQ(cost("both", 1), 2 * cost("batch", 1));
  EXPECT_DOUBLE_EQ(cost("batch", 3), 3 * cost("batch", 1));
}

TEST_F(SweepPreparationTest, TheOrderOfValuesDoesNotChangeTheAgreement) {
  const SweepPreparation sweep = prepare(options());
  SweepOptions turned = options();
  turned.axes.layers = {{1, 1, 1}, {0, 0, 1}};
  turned.axes.seeds = {2, 1};
  turned.axes.lrs = {0.5, 0.25};
  EXPECT_EQ(prepare(turned).agreement, sweep.agreement);
  EXPECT_EQ(prepare(turned).plan.cells, sweep.plan.cells);
  SweepOptions other = options();
  other.axes.seeds = {1, 3};
  EXPECT_NE(prepare(other).agreement, sweep.agreement);
  SweepOptions decayed = options();
  decayed.weight_decay = 0.5;
  EXPECT_NE(prepare(decayed).agreement, sweep.agreement);
  SweepOptions elsewhere = options();
  elsewhere.out = directory_ / "elsewhere/";
  elsewhere.save_every = 1;
  EXPECT_EQ(prepare(elsewhere).agreement, sweep.agreement);
}

TEST_F(SweepPreparationTest, AllProblemsAreNamedAtOnceAndEachOnce) {
  SweepOptions given = options();
  const auto no_model = directory_ / "no-model";
  const auto no_data = directory_ / "no-data.csv";
  const auto bad_data = directory_ / "bad-data.csv";
  std::ofstream(bad_data) << "question,answer\n";
  given.axes.models.push_back({"n", no_model});
  given.axes.data.push_back({"e", no_data, ""});
  given.axes.data.push_back({"f", train(), bad_data});
  const std::string problems = error_of<UserError>([&] { prepare(given); });
  expect_parts(problems, {no_data.string(), bad_data.string()});
  EXPECT_EQ(occurrences(problems, "--model " + no_model.string()), 1U) << problems;
  EXPECT_EQ(occurrences(problems, "\n  and "), 2U) << problems;
}

TEST_F(SweepPreparationTest, LayersThatTheModelDoesNotHaveAreRefused) {
  SweepOptions given = options();
  given.axes.layers = {{1, 3, 1}};
  EXPECT_THROW(prepare(given), UserError);
}

TEST_F(SweepPreparationTest, NothingIsWritten) {
  SweepOptions given = options();
  prepare(given);
  EXPECT_FALSE(std::filesystem::exists(given.out));
  given.dry_run = true;
  given.cache_dir = directory_ / "cache";
  prepare(given);
  EXPECT_FALSE(std::filesystem::exists(given.cache_dir));
}

TEST_F(SweepPreparationTest, ALoneDataSetIsNamedAfterItsFile) {
  SweepOptions given = options();
  given.axes.data.clear();
  given.train = train();
  EXPECT_EQ(prepare(given).plan.cells.front().data, "train");
}

TEST_F(SweepPreparationTest, EachInputHasItsCells) {
  SweepOptions given = options();
  given.axes.models.push_back({"n", model()});
  given.axes.data.push_back({"e", test(), ""});
  const SweepPreparation sweep = prepare(given);
  ASSERT_EQ(sweep.inputs.size(), 4U);
  EXPECT_EQ(sweep.plan.cells.size(), 32U);
  for (const Cell& cell : sweep.plan.cells) {
    const SweepInputs& inputs = sweep.inputs[inputs_of(sweep, cell)];
    EXPECT_EQ(inputs.model.name, cell.model);
    EXPECT_EQ(inputs.data.name, cell.data);
    EXPECT_EQ(inputs.job.inputs.train.size(), cell.data == "d" ? 3U : 2U);
  }
}

// An Olmo2 like the Llama of testing::write_model(), which has a norm behind its MLPs.
void write_normed_model(const std::filesystem::path& directory) {
  constexpr std::int64_t kHidden = testing::kModelHidden;
  constexpr std::int64_t kVocabulary = 303;
  constexpr std::int64_t kIntermediate = 12;
  testing::write_model(directory, testing::kChatMl);
  testing::write_json(directory / "config.json",
                      {{"architectures", {"Olmo2ForCausalLM"}},
                       {"hidden_size", kHidden},
                       {"num_hidden_layers", testing::kModelBlocks},
                       {"num_attention_heads", 2},
                       {"num_key_value_heads", 1},
                       {"intermediate_size", kIntermediate},
                       {"vocab_size", kVocabulary},
                       {"max_position_embeddings", testing::kModelContext}});
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> shapes = {
      {"model.embed_tokens.weight", {kVocabulary, kHidden}},
      {"model.norm.weight", {kHidden}},
      {"lm_head.weight", {kVocabulary, kHidden}}};
  for (std::int64_t block = 0; block < testing::kModelBlocks; ++block) {
    const std::vector<std::pair<const char*, std::vector<std::int64_t>>> own = {
        {"self_attn.q_proj", {kHidden, kHidden}},
        {"self_attn.k_proj", {kHidden / 2, kHidden}},
        {"self_attn.v_proj", {kHidden / 2, kHidden}},
        {"self_attn.o_proj", {kHidden, kHidden}},
        {"self_attn.q_norm", {kHidden}},
        {"self_attn.k_norm", {kHidden / 2}},
        {"post_attention_layernorm", {kHidden}},
        {"mlp.gate_proj", {kIntermediate, kHidden}},
        {"mlp.up_proj", {kIntermediate, kHidden}},
        {"mlp.down_proj", {kHidden, kIntermediate}},
        {"post_feedforward_layernorm", {kHidden}}};
    for (const auto& [name, shape] : own) {
      shapes.emplace_back("model.layers." + std::to_string(block) + "." + name + ".weight", shape);
    }
  }
  testing::write_safetensors(directory / "model.safetensors", shapes);
}

// Only one of the models has a number by which its MLPs' vectors do the same at block outputs.
TEST_F(SweepPreparationTest, MlpsOfUnlikeModelsAreOneSweep) {
  const auto normed = directory_ / "normed";
  write_normed_model(normed);
  SweepOptions given = options();
  given.site = Site::kMlp;
  given.axes.models = {{"m", model()}, {"n", normed}};
  const SweepPreparation sweep = prepare(given);
  ASSERT_EQ(sweep.plan.cells.size(), 16U);
  const auto settings = nlohmann::json::parse(sweep.plan.settings);
  EXPECT_EQ(settings["site"], "mlp");
  EXPECT_EQ(sweep.plan.settings.find("block_output_factor"), std::string::npos);
  const auto factor_of = [&](const Cell& cell) {
    return nlohmann::json::parse(cell_config(sweep, cell)).value("block_output_factor", 0.0);
  };
  EXPECT_EQ(factor_of(sweep.plan.cells.front()), 1);
  EXPECT_EQ(factor_of(sweep.plan.cells.back()), 0);
}

// The run by itself is written out option by option.
TEST_F(SweepPreparationTest, ACellIsTheRunByItself) {
  SweepOptions given = options();
  given.axes.betas = {0.75};
  given.axes.objectives = {"simpo"};
  given.axes.label_smoothings = {0.125};
  given.axes.simpo_gammas = {1.5};
  given.axes.reductions = {"sum"};
  given.axes.positions = {"first:1,last:2"};
  given.steer_bos = false;
  given.site = Site::kMlp;
  given.axes.signs = {"both"};
  given.axes.batch_sizes = {2};
  given.axes.epochs = {7};
  given.lr_unit = LrUnit::kResidual;
  given.weight_decay = 0.125;
  const SweepPreparation sweep = prepare(given);
  const Cell& cell = sweep.plan.cells.back();
  ASSERT_EQ(std::tuple(cell.layer, cell.seed, cell.lr), std::tuple(1, 2U, 0.5));

  TrainOptions alone;
  alone.model = model();
  alone.train = train();
  alone.test = test();
  alone.layer = 1;
  alone.out = directory_ / "alone.h5";
  alone.seed = 2;
  alone.lr = 0.5;
  alone.beta = 0.75;
  alone.objective = ObjectiveKind::kSimpo;
  alone.label_smoothing = 0.125;
  alone.simpo_gamma = 1.5;
  alone.reduction = Reduction::kSum;
  alone.positions = parse_positions("first:1,last:2");
  alone.steer_bos = false;
  alone.site = Site::kMlp;
  alone.sign = SignRule::kBoth;
  alone.batch_size = 2;
  alone.epochs = 7;
  alone.lr_unit = LrUnit::kResidual;
  alone.weight_decay = 0.125;
  alone.warmup_steps = 5;
  alone.device = DeviceKind::kCpu;
  alone.template_date = testing::kSomeDate;
  auto of_cell = nlohmann::json::parse(cell_config(sweep, cell));
  auto of_run =
      nlohmann::json::parse(prepare_run(alone, "2026-01-02T03:04:05Z", lone_session()).config);
  EXPECT_EQ(of_cell["out"], cell_options(sweep, cell).out.string());
  EXPECT_EQ(cell_options(sweep, cell).out.filename(), cell.name + ".h5");
  for (const char* placement : {"model", "adapter", "train", "test", "out", "dp", "threads",
                                "save_every", "cache_budget", "cache_dir", "world_size"}) {
    of_cell.erase(placement);
    of_run.erase(placement);
  }
  EXPECT_EQ(of_cell, of_run);
}

TEST_F(SweepPreparationTest, OneCellWithAReferenceIsEnoughToComputeIt) {
  SweepOptions given = options();
  given.axes.objectives = {"simpo", "sft"};
  EXPECT_FALSE(uses_reference(prepare(given)));
  given.axes.objectives = {"simpo", "dpo"};
  const SweepPreparation sweep = prepare(given);
  EXPECT_TRUE(uses_reference(sweep));
  for (const Cell& cell : sweep.plan.cells) {
    const TrainOptions of_cell = cell_options(sweep, cell);
    EXPECT_EQ(to_string(of_cell.objective), cell.objective);
    EXPECT_EQ(of_cell.sign, cell.objective == "dpo" ? SignRule::kPlus : SignRule::kBatch);
    EXPECT_EQ(of_cell.reduction, own_reduction(of_cell.objective));
  }
  const auto settings = nlohmann::json::parse(sweep.plan_text)["settings"];
  EXPECT_FALSE(settings.contains("objective") || settings.contains("reduction"));
}

TEST_F(SweepPreparationTest, ARunFileOfOtherSettingsDoesNotBelong) {
  const SweepPreparation sweep = prepare(options());
  const Cell& cell = sweep.plan.cells.front();
  RunRecord record;
  record.attributes.config = cell_config(sweep, cell);
  EXPECT_NO_THROW(check_belongs(sweep, cell, record));
  auto config = nlohmann::ordered_json::parse(record.attributes.config);
  config["threads"] = 99;
  record.attributes.config = config.dump();
  EXPECT_NO_THROW(check_belongs(sweep, cell, record));
  // Keys of another order, as another version stores them.
  record.attributes.config = nlohmann::json::parse(record.attributes.config).dump();
  EXPECT_NO_THROW(check_belongs(sweep, cell, record));
  config["weight_decay"] = 0.5;
  record.attributes.config = config.dump();
  expect_parts(error_of<UserError>([&] { check_belongs(sweep, cell, record); }),
               {cell.name + ".h5", "made with other settings"});
}

// 3 pairs in batches of 1 and 3: 60 and 20 steps.
TEST_F(SweepPreparationTest, EachCellHasTheWarmUpOfItsOwnSteps) {
  SweepOptions given = options();
  given.warmup_steps.reset();
  given.axes.epochs = {20};
  given.axes.batch_sizes = {1, 3};
  const auto warmup_of = [&](const SweepPreparation& sweep, std::int64_t batch_size) {
    for (const Cell& cell : sweep.plan.cells) {
      if (cell.batch_size == batch_size) {
        return cell_options(sweep, cell).warmup_steps.value();
      }
    }
    throw BugError("no such cell");
  };
  const SweepPreparation by_default = prepare(given);
  EXPECT_EQ(warmup_of(by_default, 1), 6);
  EXPECT_EQ(warmup_of(by_default, 3), 2);
  EXPECT_EQ(nlohmann::json::parse(by_default.plan_text)["settings"]["warmup_steps"], "0.1");
  EXPECT_EQ(by_default.warnings(), std::vector<std::string>{});
  given.warmup = Warmup(std::int64_t{30});
  const SweepPreparation limited = prepare(given);
  EXPECT_EQ(warmup_of(limited, 1), 30);
  EXPECT_EQ(warmup_of(limited, 3), 19);
  given.warmup.reset();
  given.warmup_steps = 100;
  const SweepPreparation as_before = prepare(given);
  EXPECT_EQ(warmup_of(as_before, 3), 100);
  EXPECT_EQ(nlohmann::json::parse(as_before.plan_text)["settings"]["warmup_steps"], 100);
}

// Other cells can train at such positions.
TEST_F(SweepPreparationTest, WarnsOfPositionsBehindWhichNothingIsRead) {
  SweepOptions given = options();
  const auto warnings = [&] {
    std::string about_positions;
    for (const std::string& warning : prepare(given).warnings()) {
      about_positions += warning.starts_with("--positions") ? warning + "\n" : "";
    }
    return about_positions;
  };
  given.axes.positions = {"all", "first:1"};
  EXPECT_EQ(warnings(), "");
  given.axes.layers = {{0, 2, 1}};
  expect_parts(warnings(), {"--positions first:1", "layer 2 is the model's last"});
  given.axes.layers = {{2, 2, 1}};
  expect_parts(error_of<UserError>([&] { prepare(given); }), {"first:1", "nothing to train"});
}

TEST_F(SweepPreparationTest, WarningsComeOnce) {
  SweepOptions given = options();
  given.warmup_steps = 100;
  given.axes.batch_sizes = {3};  // all pairs of the file
  const std::vector<std::string> warnings = prepare(given).warnings();
  ASSERT_EQ(warnings.size(), 1U);
  expect_parts(warnings[0], {"the warm-up of 100 steps", "a cell's run", "(3 steps)", "--lrs"});
}

}  // namespace
}  // namespace bipo
