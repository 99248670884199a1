// What is decided about a run of a small model by one rank, against values worked out by hand.
#include "experiments/training/run_preparation.hpp"

#include <ATen/Context.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "experiments/training/run_record.hpp"
#include "tests/support/errors.hpp"
#include "tests/support/lone_session.hpp"
#include "tests/support/model_directory.hpp"

namespace bipo {
namespace {

using Texts = std::vector<std::string>;

using testing::error_of;
using testing::expect_parts;
using testing::lone_session;

constexpr const char* kNow = "2026-01-02T03:04:05Z";
constexpr const char* kLater = "2026-02-03T04:05:06Z";

// The model's template prints the date.
class RunPreparationTest : public testing::ModelDirectory {
 protected:
  RunPreparationTest()
      : ModelDirectory(std::string("{{ strftime_now('%Y-%m-%d') }}") + testing::kChatMl) {}

  TrainOptions options() const {
    TrainOptions options;
    options.model = model();
    options.train = train();
    options.layer = 1;
    options.out = directory_ / "run.h5";
    options.device = DeviceKind::kCpu;
    options.epochs = 20;
    options.warmup_steps = 5;
    options.batch_size = 3;  // all pairs of the file
    return options;
  }

  static RunPreparation prepare(const TrainOptions& options, const char* now = kNow) {
    return prepare_run(options, now, lone_session());
  }

  // Leaves the file of such a run at this step.
  static void write_run(const TrainOptions& options, std::int64_t step, RunStatus status) {
    const RunPreparation run = prepare(options);
    RunRecord record{starting_record(testing::kModelHidden, options.seed),
                     run_attributes(run.job.options, run.job, lone_session(), run.config, kNow),
                     nullptr};
    record.checkpoint.step = step;
    record.attributes.status = status;
    ASSERT_TRUE(write_run_file(options.out, record));
  }
};

TEST_F(RunPreparationTest, ResolvesEveryAuto) {
  TrainOptions given = options();
  given.device = DeviceKind::kAuto;
  const RunPreparation run = prepare(given);
  const TrainOptions& resolved = run.job.options;
  EXPECT_NE(resolved.device, DeviceKind::kAuto);
  EXPECT_EQ(resolved.dtype, resolved.device == DeviceKind::kCuda ? Dtype::kBf16 : Dtype::kFp32);
  EXPECT_EQ(resolved.cache_dtype, Dtype::kFp32);
  EXPECT_EQ(resolved.dp, 1);
  EXPECT_GE(resolved.threads.value(), 1);
  EXPECT_EQ(resolved.micro_batch, 3);  // a batch of 4, but there are 3 pairs
  EXPECT_EQ(resolved.max_length, testing::kModelContext);
  EXPECT_NE(resolved.chat_template, "auto");
  EXPECT_GT(resolved.cache_budget.value(), 0U);
  ASSERT_TRUE(resolved.template_date);
  EXPECT_EQ(iso_text(resolved.template_date->day), "2026-01-02");
  // The rule for BOS remains a rule.
  const std::string but_bos = std::regex_replace(run.config, std::regex(R"("bos":"auto",)"), "");
  EXPECT_NE(but_bos, run.config);
  EXPECT_EQ(but_bos.find("\"auto\""), std::string::npos) << run.config;
  EXPECT_EQ(run.created_utc, kNow);
  EXPECT_FALSE(run.previous);
}

TEST_F(RunPreparationTest, KeepsWhatIsGiven) {
  TrainOptions given = options();
  given.dtype = Dtype::kBf16;
  given.cache_dtype = Dtype::kBf16;
  given.threads = 1;
  given.micro_batch = 2;
  given.max_length = 200;
  given.cache_budget = 4096;
  given.template_date = TemplateDate{parse_iso_date("2020-02-29").value(), /*given=*/true};
  const TrainOptions resolved = prepare(given).job.options;
  EXPECT_EQ(resolved.dtype, Dtype::kBf16);
  EXPECT_EQ(resolved.cache_dtype, Dtype::kBf16);
  EXPECT_EQ(resolved.threads, 1);
  EXPECT_EQ(resolved.micro_batch, 2);
  EXPECT_EQ(resolved.max_length, 200);
  EXPECT_EQ(resolved.cache_budget, 4096U);
  EXPECT_EQ(iso_text(resolved.template_date->day), "2020-02-29");
}

// The keys that version 0.1.0 wrote.
TEST_F(RunPreparationTest, StoresTheKeysOfEarlyVersions) {
  TrainOptions given = options();
  given.test = test();
  const auto config = nlohmann::json::parse(prepare(given).config);
  std::set<std::string> keys;
  for (const auto& [key, value] : config.items()) {
    keys.insert(key);
  }
  EXPECT_EQ(keys, (std::set<std::string>{"model",
                                         "adapter",
                                         "model_fingerprint",
                                         "weights_hash",
                                         "train",
                                         "train_pairs",
                                         "train_tokens_hash",
                                         "test",
                                         "test_pairs",
                                         "test_tokens_hash",
                                         "layer",
                                         "out",
                                         "epochs",
                                         "max_steps",
                                         "batch_size",
                                         "micro_batch",
                                         "lr",
                                         "lr_unit",
                                         "beta",
                                         "weight_decay",
                                         "max_grad_norm",
                                         "warmup_steps",
                                         "sign",
                                         "shuffle",
                                         "seed",
                                         "multipliers",
                                         "eval_every",
                                         "save_every",
                                         "dtype",
                                         "device",
                                         "world_size",
                                         "tp",
                                         "dp",
                                         "threads",
                                         "deterministic",
                                         "system_prompt",
                                         "chat_template",
                                         "template_date",
                                         "template_date_given",
                                         "no_eos",
                                         "bos",
                                         "max_length",
                                         "skip_bad",
                                         "cache_dtype",
                                         "cache_budget",
                                         "cache_dir"}));
  EXPECT_EQ(config["train_pairs"], 3);
  EXPECT_EQ(config["test_pairs"], 2);
  EXPECT_EQ(config["world_size"], 1);
  EXPECT_NE(config["train_tokens_hash"], config["test_tokens_hash"]);
}

TEST_F(RunPreparationTest, PlansTheStepsOfTheOptions) {
  TrainOptions given = options();
  given.epochs = 7;
  given.batch_size = 2;
  given.seed = 5;
  given.sign = SignRule::kBoth;
  const PlanSettings plan = prepare(given).plan;
  EXPECT_EQ(plan.pairs, 3);
  EXPECT_EQ(plan.batch_size, 2);
  EXPECT_EQ(plan.micro_batch, 2);
  EXPECT_EQ(plan.seed, 5U);
  EXPECT_EQ(plan.sign, SignRule::kBoth);
  EXPECT_EQ(BatchPlan(plan).total_steps(), 14);  // 2 an epoch
}

TEST_F(RunPreparationTest, AnExistingOutIsKeptUnlessOverwriteSaysOtherwise) {
  TrainOptions given = options();
  write_run(given, 2, RunStatus::kInterrupted);
  expect_parts(error_of<UserError>([&] { prepare(given); }),
               {"--out " + given.out.string(), "exists already", "--resume", "--overwrite"});
  given.overwrite = true;
  EXPECT_FALSE(prepare(given).previous);
}

TEST_F(RunPreparationTest, ResumeStartsAnewWhereThereIsNoFile) {
  TrainOptions given = options();
  given.resume = true;
  EXPECT_FALSE(prepare(given).previous);
}

TEST_F(RunPreparationTest, ResumeContinuesTheFileWithItsDates) {
  TrainOptions given = options();
  write_run(given, 2, RunStatus::kInterrupted);
  given.resume = true;
  given.save_every = 1;  // shapes no result
  const RunPreparation run = prepare(given, kLater);
  ASSERT_TRUE(run.previous);
  EXPECT_EQ(run.previous->checkpoint.step, 2);
  EXPECT_EQ(run.created_utc, kNow);
  EXPECT_EQ(iso_text(run.job.options.template_date->day), "2026-01-02");
}

TEST_F(RunPreparationTest, ResumeKeepsTheMicroBatchOfTheFile) {
  TrainOptions given = options();
  given.micro_batch = 1;  // 3 by itself
  write_run(given, 2, RunStatus::kInterrupted);
  given.micro_batch.reset();
  given.resume = true;
  EXPECT_EQ(prepare(given).plan.micro_batch, 1);
}

TEST_F(RunPreparationTest, ResumeWithOtherSettingsIsRefusedByName) {
  TrainOptions given = options();
  write_run(given, 2, RunStatus::kInterrupted);
  given.resume = true;
  given.lr = 0.25;
  given.seed = 12;
  expect_parts(
      error_of<UserError>([&] { prepare(given); }),
      {"--resume: " + given.out.string(), "--lr was 0.003, now 0.25", "--seed was 11, now 12"});
}

TEST_F(RunPreparationTest, ResumeComparesTheObjective) {
  TrainOptions given = options();
  given.objective = ObjectiveKind::kSimpo;
  const auto config = nlohmann::json::parse(prepare(given).config);
  EXPECT_EQ(config["objective"], "simpo");
  EXPECT_EQ(config["reduction"], "mean");
  EXPECT_EQ(config["simpo_gamma"], 0.5);
  write_run(given, 2, RunStatus::kInterrupted);
  given.resume = true;
  given.reduction = Reduction::kMean;  // the same in other words
  EXPECT_EQ(prepare(given).previous->checkpoint.step, 2);
  given.simpo_gamma = 1;
  expect_parts(error_of<UserError>([&] { prepare(given); }), {"--simpo-gamma was 0.5, now 1.0"});
  given.objective = ObjectiveKind::kBipo;
  given.reduction.reset();
  expect_parts(error_of<UserError>([&] { prepare(given); }),
               {"objective was \"simpo\", now the default"});
}

TEST_F(RunPreparationTest, DpoHasOneDirection) {
  TrainOptions given = options();
  given.objective = ObjectiveKind::kDpo;
  const RunPreparation run = prepare(given);
  EXPECT_EQ(run.plan.sign, SignRule::kPlus);
  EXPECT_EQ(nlohmann::json::parse(run.config)["sign"], "plus");
}

TEST_F(RunPreparationTest, AgreementIsThatOfTheResultAndItsState) {
  const TrainOptions given = options();
  const std::uint64_t agreement = prepare(given).agreement;
  EXPECT_EQ(prepare(given).agreement, agreement);
  TrainOptions elsewhere = given;
  elsewhere.out = directory_ / "other.h5";
  elsewhere.save_every = 1;
  EXPECT_EQ(prepare(elsewhere).agreement, agreement);
  TrainOptions seeded = given;
  seeded.seed = 12;
  EXPECT_NE(prepare(seeded).agreement, agreement);

  TrainOptions continued = given;
  continued.resume = true;
  std::set<std::uint64_t> all = {agreement};
  write_run(given, 2, RunStatus::kInterrupted);
  all.insert(prepare(continued).agreement);
  std::filesystem::remove(given.out);
  write_run(given, 3, RunStatus::kInterrupted);
  all.insert(prepare(continued).agreement);
  std::filesystem::remove(given.out);
  write_run(given, 3, RunStatus::kComplete);
  all.insert(prepare(continued).agreement);
  EXPECT_EQ(all.size(), 4U);
}

// 3 pairs are one step an epoch.
TEST_F(RunPreparationTest, WarnsOfAWarmUpAsLongAsTheRun) {
  TrainOptions given = options();
  given.epochs = 6;
  EXPECT_EQ(prepare(given).job.warnings, Texts{});
  given.epochs = 5;
  EXPECT_EQ(prepare(given).job.warnings,
            Texts{"the warm-up of 5 steps is as long as the run or longer (5 steps): the learning "
                  "rate never reaches --lr; lower --warmup-steps"});
}

// 3 pairs are one step an epoch: 20 steps.
TEST_F(RunPreparationTest, ByDefaultAShortRunWarmsUpInATenthOfIt) {
  TrainOptions given = options();
  given.warmup_steps.reset();
  const RunPreparation run = prepare(given);
  EXPECT_EQ(run.job.options.warmup_steps, 2);
  EXPECT_EQ(nlohmann::json::parse(run.config)["warmup_steps"], 2);
  EXPECT_EQ(training_settings(run.job.options, run.plan, {1}, run.job.inputs.config).warmup_steps,
            2);
  EXPECT_EQ(run.job.warnings, Texts{});
}

// Hidden size 8.  What is added in front of a norm moves the stream by another length.
TEST_F(RunPreparationTest, AVectorInFrontOfANormIsNotHeldAgainstTheStream) {
  TrainOptions given = options();
  given.site = Site::kMlp;
  const RunPreparation run = prepare(given);
  ModelConfig config = run.job.inputs.config;
  const auto measure = [&] {
    return training_settings(run.job.options, run.plan, {3}, config).residual_norm;
  };
  EXPECT_DOUBLE_EQ(measure(), 3 * std::sqrt(8.0));
  const std::vector<double> norms = {100, 200};
  EXPECT_EQ(comparable_norms(run.job.options, config, norms), norms);
  config.output_norms = true;
  EXPECT_EQ(measure(), 0);
  EXPECT_EQ(comparable_norms(run.job.options, config, norms), std::vector<double>{});
  EXPECT_EQ(comparable_norms(options(), config, norms), norms);
}

// Hidden size 8.  The length of vectors at several layers is held against that of the stream over
// all of them; the unit of lengths and rates is the lowest layer's.
TEST_F(RunPreparationTest, VectorsOfSeveralLayersAreMeasuredByTheStreamAtAllOfThem) {
  TrainOptions given = options();
  given.norm = {NormRule::kMax, {50, /*is_percent=*/true}};
  given.lr = 0.5;
  given.lr_unit = LrUnit::kResidual;
  const RunPreparation run = prepare(given);
  const ModelConfig& config = run.job.inputs.config;
  const TrainingSettings made = training_settings(run.job.options, run.plan, {3, 4}, config);
  EXPECT_DOUBLE_EQ(made.residual_norm, 5 * std::sqrt(8.0));
  EXPECT_DOUBLE_EQ(made.norm.norm, 1.5 * std::sqrt(8.0));
  EXPECT_DOUBLE_EQ(made.lr, 1.5);
}

// It stored 100 steps of a run of 20.
TEST_F(RunPreparationTest, ResumeKeepsTheWarmUpOfAnEarlierVersion) {
  TrainOptions given = options();
  given.warmup_steps = 100;
  write_run(given, 2, RunStatus::kInterrupted);
  given.warmup_steps.reset();
  given.resume = true;
  EXPECT_EQ(prepare(given).job.options.warmup_steps, 100);
  given.warmup = Warmup(0.1);
  expect_parts(error_of<UserError>([&] { prepare(given); }), {"--warmup-steps was 100, now 2"});
}

TEST_F(RunPreparationTest, ResumeComparesTheStepsOfAShare) {
  TrainOptions given = options();
  given.warmup_steps.reset();
  given.warmup = Warmup(0.2);
  write_run(given, 2, RunStatus::kInterrupted);
  given.resume = true;
  EXPECT_EQ(prepare(given).job.options.warmup_steps, 4);
  given.warmup.reset();
  expect_parts(error_of<UserError>([&] { prepare(given); }), {"--warmup-steps was 4, now 2"});
  given.warmup_steps = 4;
  EXPECT_EQ(prepare(given).job.options.warmup_steps, 4);
}

TEST_F(RunPreparationTest, ADryRunLeavesOutWhatOnlyARunNeeds) {
  TrainOptions given = options();
  given.dry_run = true;
  given.cache_dir = directory_ / "cache";
  const RunPreparation run = prepare(given);
  EXPECT_FALSE(std::filesystem::exists(given.cache_dir));
  EXPECT_FALSE(run.job.options.cache_budget);
  EXPECT_FALSE(nlohmann::json::parse(run.config).contains("weights_hash"));
  EXPECT_FALSE(run.job.inputs.overview.empty());
}

TEST_F(RunPreparationTest, WarnsOfOtherThreadsThanTheFiles) {
  TrainOptions given = options();
  given.threads = 1;
  write_run(given, 2, RunStatus::kInterrupted);
  RunRecord record = read_run_file(given.out);
  auto config = nlohmann::ordered_json::parse(record.attributes.config);
  config["threads"] = 6;
  record.attributes.config = config.dump();
  ASSERT_TRUE(write_run_file(given.out, record));
  given.resume = true;
  const Texts warnings = prepare(given).job.warnings;
  ASSERT_EQ(warnings.size(), 1U);
  expect_parts(warnings[0], {"threads per rank were 6, now 1"});
}

TEST_F(RunPreparationTest, RefusesALayerThatTheModelDoesNotHave) {
  TrainOptions given = options();
  given.layer = 3;
  EXPECT_EQ(error_of<UserError>([&] { prepare(given); }),
            "--layer 3: the model has 3 blocks, so layers go from 0 to 2");
}

// Messages name the option that was given.
TEST_F(RunPreparationTest, AStartThatDoesNotFitIsRefusedByTheOptionsName) {
  const TrainOptions first = options();
  const RunPreparation run = prepare(first);
  RunRecord record{starting_record(testing::kModelHidden, first.seed),
                   run_attributes(run.job.options, run.job, lone_session(), run.config, kNow),
                   nullptr};
  record.vectors.push_back({std::vector<float>(testing::kModelHidden, 1), /*step=*/1, /*epoch=*/0});
  record.attributes.status = RunStatus::kComplete;
  ASSERT_TRUE(write_run_file(first.out, record));
  TrainOptions given = options();
  given.out = directory_ / "second.h5";
  given.continue_from.file = first.out;
  given.layer = SteeredLayers(std::vector<std::int64_t>{0, 1});
  for (const bool by_init : {false, true}) {
    given.starts_by_init = by_init;
    const std::string option = by_init ? "--init" : "--continue-from";
    EXPECT_TRUE(
        error_of<UserError>([&] { prepare(given); })
            .ends_with(": its vector belongs to layer 1, but --layer is 0,1; a vector means "
                       "something at its own layer only: give --layer 1"));
    EXPECT_TRUE(error_of<UserError>([&] { prepare(given); }).starts_with(option + " "));
    TrainOptions resumed = options();
    resumed.resume = true;
    resumed.continue_from.file = "other.h5";
    resumed.starts_by_init = by_init;
    expect_parts(error_of<UserError>([&] { prepare(resumed); }),
                 {"did not start from " + option + " other.h5", "leave " + option + " out"});
  }
}

// The activations of the last block's tokens predict the next token, and no other token sees them.
TEST_F(RunPreparationTest, PositionsBehindWhichNothingIsReadAreRefused) {
  TrainOptions given = options();
  const auto warnings = [&] {
    std::string about_positions;
    for (const std::string& warning : prepare(given).job.warnings) {
      about_positions += warning.starts_with("--positions") ? warning + "\n" : "";
    }
    return about_positions;
  };
  given.positions = parse_positions("first:1");
  EXPECT_EQ(warnings(), "");
  given.layer = testing::kModelBlocks - 1;
  expect_parts(error_of<UserError>([&] { prepare(given); }),
               {"--positions first:1", "layer 2 is the model's last", "nothing to train", "lower"});
  given.layer = SteeredLayers(std::vector<std::int64_t>{0, 2});
  expect_parts(warnings(), {"layer 2 is the model's last", "its vector is not trained"});
  given.layer = 2;
  given.positions = parse_positions("first:1,last:1");
  EXPECT_EQ(warnings(), "");
}

TEST_F(RunPreparationTest, SeveralLayersAreOneRun) {
  TrainOptions given = options();
  given.layer = SteeredLayers(std::vector<std::int64_t>{0, 2});
  const RunPreparation run = prepare(given);
  EXPECT_EQ(nlohmann::json::parse(run.config)["layer"], (std::vector<std::int64_t>{0, 2}));
  const RunAttributes attributes =
      run_attributes(run.job.options, run.job, lone_session(), run.config, kNow);
  EXPECT_EQ(attributes.layer, 0);
  EXPECT_EQ(attributes.higher_layers, (std::vector<std::int64_t>{2}));
  given.start = RandomStart{{0.5, /*is_percent=*/false}};
  const TrainingRecord record = new_record(given, testing::kModelHidden, /*residual_norm=*/1);
  EXPECT_EQ(std::ssize(record.checkpoint.vector), 2 * testing::kModelHidden);
  EXPECT_EQ(record.checkpoint.exp_avg.size(), record.checkpoint.vector.size());
  given.layer = SteeredLayers(std::vector<std::int64_t>{0, 2, 3});
  EXPECT_EQ(error_of<UserError>([&] { prepare(given); }),
            "--layer 3: the model has 3 blocks, so layers go from 0 to 2");
}

TEST_F(RunPreparationTest, RefusesAnOutThatCannotOrMustNotBeWritten) {
  TrainOptions given = options();
  given.out = directory_ / "missing" / "run.h5";
  expect_parts(error_of<UserError>([&] { prepare(given); }), {"there is no directory"});
  given.out = train();
  given.overwrite = true;
  expect_parts(error_of<UserError>([&] { prepare(given); }), {"--out " + train().string()});
}

// As TORCH_ALLOW_TF32_CUBLAS_OVERRIDE and libtorch's defaults leave it.
TEST_F(RunPreparationTest, KeepsThePrecisionOfProducts) {
  at::Context& context = at::globalContext();
  context.setAllowTF32CuBLAS(true);
  context.setAllowTF32CuDNN(true);
  context.setAllowBF16ReductionCuBLAS(true);
  prepare(options());
  EXPECT_FALSE(context.allowTF32CuBLAS());
  EXPECT_FALSE(context.allowTF32CuDNN());
  EXPECT_EQ(context.allowBF16ReductionCuBLAS(),
            at::CuBLASReductionOption::DisallowReducedPrecisionAllowSplitK);
}

TEST_F(RunPreparationTest, RefusesMoreRanksThanThereAre) {
  TrainOptions given = options();
  given.dp = 2;
  EXPECT_THROW(prepare(given), UserError);
}

}  // namespace
}  // namespace bipo
