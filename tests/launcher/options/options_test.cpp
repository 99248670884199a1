// Command lines and INI files against the structs and the messages that the design asks for.
#include "launcher/options/options.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <limits>
#include <regex>
#include <sstream>

#include "collectives/foundation/errors.hpp"
#include "experiments/settings/version.hpp"
#include "launcher/options/suggest.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

using testing::error_of;
using testing::expect_parts;
using Words = std::vector<std::string>;

Words train_words(const Words& extra) {
  Words words = {"train", "--model", "m", "--train", "t.csv", "--layer", "3", "--out", "run.h5"};
  words.insert(words.end(), extra.begin(), extra.end());
  return words;
}

TrainOptions parsed(const Words& extra) {
  return std::get<TrainOptions>(parse_command_line(train_words(extra)));
}

std::string printed(const Words& words) {
  return std::get<PrintAndExit>(parse_command_line(words)).text;
}

std::string error_of(const Words& words) {
  return testing::error_of<UserError>([&] { parse_command_line(words); });
}

std::string train_error(const Words& extra) {
  return error_of(train_words(extra));
}

// An INI file that is gone with the object.
class IniFile {
 public:
  explicit IniFile(const std::string& text)
      : path_(::testing::TempDir() + "options_test_" + std::to_string(getpid()) + ".ini") {
    std::ofstream(path_) << text;
  }
  IniFile(const IniFile&) = delete;
  IniFile& operator=(const IniFile&) = delete;
  ~IniFile() { std::filesystem::remove(path_); }

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(TrainOptions, RequiredOnesAloneLeaveTheDefaults) {
  const TrainOptions options = parsed({});
  EXPECT_EQ(options.model, "m");
  EXPECT_EQ(options.train, "t.csv");
  EXPECT_EQ(options.layer, 3);
  EXPECT_EQ(options.out, "run.h5");
  EXPECT_TRUE(options.test.empty());
  EXPECT_EQ(options.epochs, 3);
  EXPECT_EQ(options.max_steps, 0);
  EXPECT_EQ(options.batch_size, 4);
  EXPECT_FALSE(options.micro_batch);
  EXPECT_EQ(options.lr, 3e-3);
  EXPECT_EQ(options.lr_unit, LrUnit::kResidual);
  EXPECT_EQ(options.beta, 0.1);
  EXPECT_EQ(options.weight_decay, 0);
  EXPECT_EQ(options.max_grad_norm, 1);
  EXPECT_FALSE(options.warmup || options.warmup_steps);  // a tenth
  EXPECT_EQ(options.sign, SignRule::kBatch);
  EXPECT_TRUE(options.shuffle);
  EXPECT_EQ(options.seed, 11U);
  EXPECT_EQ(options.multipliers, (std::vector<double>{-1, 0, 1}));
  EXPECT_EQ(options.save_every, 30);
  EXPECT_EQ(options.system_prompt, "You are a helpful, honest and concise assistant.");
  EXPECT_FALSE(options.resume || options.overwrite || options.deterministic || options.no_eos ||
               options.skip_bad);
  EXPECT_EQ(options.bos, BosRule::kAuto);
}

TEST(TrainOptions, EveryOptionReachesItsField) {
  const TrainOptions options = parsed({"--test",
                                       "held.jsonl",
                                       "--overwrite",
                                       "--epochs",
                                       "2",
                                       "--max-steps",
                                       "7",
                                       "--batch-size",
                                       "8",
                                       "--micro-batch",
                                       "3",
                                       "--lr",
                                       "0.01",
                                       "--lr-unit",
                                       "residual",
                                       "--beta",
                                       "0.2",
                                       "--weight-decay",
                                       "0.05",
                                       "--max-grad-norm",
                                       "0",
                                       "--warmup-steps",
                                       "9",
                                       "--sign",
                                       "pair",
                                       "--shuffle",
                                       "off",
                                       "--seed",
                                       "18446744073709551615",
                                       "--multipliers",
                                       "2,-0.5",
                                       "--eval-every",
                                       "0",
                                       "--save-every",
                                       "1.5",
                                       "--dtype",
                                       "bf16",
                                       "--device",
                                       "cuda",
                                       "--tp",
                                       "4",
                                       "--dp",
                                       "6",
                                       "--threads",
                                       "5",
                                       "--deterministic",
                                       "--system-prompt",
                                       "Be brief.",
                                       "--chat-template",
                                       "chatml",
                                       "--template-date",
                                       "2024-02-29",
                                       "--template-arg",
                                       "enable_thinking=false",
                                       "--template-arg",
                                       "effort=\"high\"",
                                       "--train-turns",
                                       "all",
                                       "--no-eos",
                                       "--bos",
                                       "always",
                                       "--max-length",
                                       "512",
                                       "--skip-bad",
                                       "--cache-budget",
                                       "3M"});
  EXPECT_EQ(options.test, "held.jsonl");
  EXPECT_TRUE(options.overwrite && !options.resume);
  EXPECT_EQ(options.epochs, 2);
  EXPECT_EQ(options.max_steps, 7);
  EXPECT_EQ(options.batch_size, 8);
  EXPECT_EQ(options.micro_batch, 3);
  EXPECT_EQ(options.lr, 0.01);
  EXPECT_EQ(options.lr_unit, LrUnit::kResidual);
  EXPECT_EQ(options.beta, 0.2);
  EXPECT_EQ(options.weight_decay, 0.05);
  EXPECT_EQ(options.max_grad_norm, 0);
  EXPECT_EQ(options.warmup_steps, 9);
  EXPECT_EQ(options.sign, SignRule::kPair);
  EXPECT_FALSE(options.shuffle);
  EXPECT_EQ(options.seed, std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(options.multipliers, (std::vector<double>{2, -0.5}));
  EXPECT_EQ(options.eval_every, 0);
  EXPECT_EQ(options.save_every, 1.5);
  EXPECT_EQ(options.dtype, Dtype::kBf16);
  EXPECT_EQ(options.device, DeviceKind::kCuda);
  EXPECT_EQ(options.tp, 4);
  EXPECT_EQ(options.dp, 6);
  EXPECT_EQ(options.threads, 5);
  EXPECT_TRUE(options.deterministic && options.no_eos && options.skip_bad);
  EXPECT_EQ(options.bos, BosRule::kAlways);
  EXPECT_EQ(options.system_prompt, "Be brief.");
  EXPECT_EQ(options.chat_template, "chatml");
  ASSERT_TRUE(options.template_date);
  EXPECT_EQ(iso_text(options.template_date->day), "2024-02-29");
  EXPECT_TRUE(options.template_date->given);
  EXPECT_EQ(options.template_args.values, (std::map<std::string, nlohmann::ordered_json>{
                                              {"effort", "high"}, {"enable_thinking", false}}));
  EXPECT_EQ(options.train_turns, TrainTurns::kAll);
  EXPECT_EQ(options.max_length, 512);
  EXPECT_EQ(options.cache_budget, 3U * 1024 * 1024);
}

TEST(TrainOptions, AutoMeansNothingFixed) {
  const TrainOptions options =
      parsed({"--micro-batch=auto", "--dp=auto", "--threads=auto", "--cache-budget=auto"});
  EXPECT_FALSE(options.micro_batch || options.dp || options.threads || options.cache_budget);
}

TEST(TrainOptions, CachesOfActivationsHaveATypeAPlaceAndADirectory) {
  EXPECT_EQ(parsed({}).cache_dtype, Dtype::kAuto);
  EXPECT_TRUE(parsed({}).cache_dir.empty());
  EXPECT_EQ(parsed({}).cache_device, CacheDevice::kAuto);
  const TrainOptions options =
      parsed({"--cache-dtype", "bf16", "--cache-dir", "kept", "--cache-device", "host"});
  EXPECT_EQ(options.cache_dtype, Dtype::kBf16);
  EXPECT_EQ(options.cache_dir, "kept");
  EXPECT_EQ(options.cache_device, CacheDevice::kHost);
  expect_parts(train_error({"--cache-dtype", "fp16"}), {"cache-dtype", "auto, fp32, bf16"});
}

TEST(TrainOptions, KernelsOfADeviceAreAChoice) {
  EXPECT_EQ(parsed({}).kernels, Kernels::kAuto);
  EXPECT_EQ(parsed({"--kernels", "composed"}).kernels, Kernels::kComposed);
  EXPECT_EQ(parsed({"--kernels", "compiled"}).kernels, Kernels::kCompiled);
  expect_parts(train_error({"--kernels", "own"}), {"kernels", "auto, composed, compiled"});
}

TEST(TrainOptions, AttentionOfADeviceIsAChoice) {
  EXPECT_EQ(parsed({}).attention, Attention::kAuto);
  EXPECT_EQ(parsed({"--attention", "composed"}).attention, Attention::kComposed);
  EXPECT_EQ(parsed({"--attention", "flash"}).attention, Attention::kFlash);
  expect_parts(train_error({"--attention", "padded"}), {"attention", "auto, composed, flash"});
}

TEST(TrainOptions, GraphsOfADeviceAreAutomaticOrOff) {
  EXPECT_EQ(parsed({}).cuda_graphs, CudaGraphs::kAuto);
  EXPECT_EQ(parsed({"--cuda-graphs", "off"}).cuda_graphs, CudaGraphs::kOff);
  EXPECT_EQ(parsed({"--cuda-graphs", "on"}).cuda_graphs, CudaGraphs::kOn);
  expect_parts(train_error({"--cuda-graphs", "always"}), {"cuda-graphs", "auto, off, on"});
}

SweepOptions parsed_sweep(const Words& extra) {
  Words words = {"sweep", "--model", "m", "--train", "t.csv", "--out", "dir"};
  words.insert(words.end(), extra.begin(), extra.end());
  return std::get<SweepOptions>(parse_command_line(words));
}

std::string sweep_error(const Words& extra) {
  Words words = {"sweep", "--model", "m", "--train", "t.csv", "--out", "dir"};
  words.insert(words.end(), extra.begin(), extra.end());
  return error_of(words);
}

using Triple = std::array<std::int64_t, 3>;

std::vector<Triple> layers_of(const SweepOptions& options) {
  std::vector<Triple> layers;
  for (const LayerRange& range : options.axes.layers) {
    layers.push_back({range.first, range.last, range.step});
  }
  return layers;
}

TEST(SweepOptions, AxesDefaultToThePapersValues) {
  const SweepOptions options = parsed_sweep({"--layers", "15"});
  EXPECT_EQ(layers_of(options), (std::vector<Triple>{{15, 15, 1}}));
  EXPECT_EQ(options.axes.seeds, (std::vector<std::uint64_t>{11}));
  EXPECT_EQ(options.axes.lrs, (std::vector<double>{3e-3}));
  EXPECT_EQ(options.axes.betas, (std::vector<double>{0.1}));
  EXPECT_EQ(options.axes.signs, (Words{"batch"}));
  EXPECT_EQ(options.axes.batch_sizes, (std::vector<std::int64_t>{4}));
  EXPECT_EQ(options.axes.epochs, (std::vector<std::int64_t>{3}));
  EXPECT_EQ(options.out, "dir");
  EXPECT_FALSE(options.vectors_per_pass);
  EXPECT_FALSE(options.retry_failed);
  EXPECT_FALSE(options.dry_run);
}

std::vector<Words> models_of(const SweepOptions& options) {
  std::vector<Words> models;
  for (const NamedModel& model : options.axes.models) {
    models.push_back({model.name, model.directory.string()});
  }
  return models;
}

SweepOptions parsed_axes(const Words& extra) {
  Words words = {"sweep", "--layers", "1", "--out", "dir"};
  words.insert(words.end(), extra.begin(), extra.end());
  return std::get<SweepOptions>(parse_command_line(words));
}

std::string axes_error(const Words& extra) {
  Words words = {"sweep", "--layers", "1", "--out", "dir"};
  words.insert(words.end(), extra.begin(), extra.end());
  return error_of(words);
}

TEST(SweepOptions, ModelsAreDirectoriesWithOrWithoutNames) {
  const SweepOptions options =
      parsed_axes({"--models", "models/tiny,big=/data/Big Model,other/", "--train", "t.csv"});
  EXPECT_EQ(models_of(options),
            (std::vector<Words>{
                {"tiny", "models/tiny"}, {"big", "/data/Big Model"}, {"other", "other/"}}));
  EXPECT_EQ(models_of(parsed_axes({"--model", "a/My Model (v2)", "--train", "t.csv"})),
            (std::vector<Words>{{"My-Model--v2-", "a/My Model (v2)"}}));
  const auto models_error = [&](const std::string& models) {
    return axes_error({"--models", models, "--train", "t.csv"});
  };
  expect_parts(models_error("a/x,b/x"), {"'x' is given twice", "NAME=PATH"});
  expect_parts(models_error("a,,b"), {"must name a path"});
  expect_parts(models_error("a/b=c"), {"'a/b'", "letters, digits"});
  expect_parts(models_error(".x=c"), {"'.x'", "letters, digits"});
  expect_parts(models_error("=c"), {"''", "letters, digits"});
}

TEST(SweepOptions, DataSetsAreFilesWithOrWithoutHeldOutPairs) {
  const SweepOptions options =
      parsed_axes({"--model", "m", "--data", "warm=a/train.csv:a/test.csv,b/curt.jsonl,c=d.csv"});
  ASSERT_EQ(options.axes.data.size(), 3U);
  EXPECT_EQ(options.axes.data[0].name, "warm");
  EXPECT_EQ(options.axes.data[0].train, "a/train.csv");
  EXPECT_EQ(options.axes.data[0].test, "a/test.csv");
  EXPECT_EQ(options.axes.data[1].name, "curt");
  EXPECT_EQ(options.axes.data[1].train, "b/curt.jsonl");
  EXPECT_TRUE(options.axes.data[1].test.empty());
  EXPECT_EQ(options.axes.data[2].name, "c");
  expect_parts(axes_error({"--model", "m", "--data", "a:b:c"}), {"'a:b:c' has 3 files"});
  expect_parts(axes_error({"--model", "m", "--data", "a:"}), {"must name a path"});
  expect_parts(axes_error({"--model", "m", "--data", "a/t.csv,b/t.csv"}), {"'t' is given twice"});
}

TEST(SweepOptions, OneWayToNameTheData) {
  expect_parts(axes_error({"--model", "m"}), {"--train", "--data"});
  expect_parts(axes_error({"--model", "m", "--train", "a", "--data", "b"}), {"--train", "--data"});
  expect_parts(axes_error({"--model", "m", "--test", "a", "--data", "b"}), {"--test", "--data"});
}

TEST(SweepOptions, MicroBatchIsAPartOfEveryBatch) {
  EXPECT_EQ(
      parsed_sweep({"--layer", "1", "--batch-sizes", "8,4", "--micro-batch", "4"}).axes.batch_sizes,
      (std::vector<std::int64_t>{8, 4}));
  expect_parts(sweep_error({"--layer", "1", "--batch-sizes", "8,4", "--micro-batch", "5"}),
               {"--micro-batch 5", "--batch-size 4"});
  expect_parts(sweep_error({"--layer", "1", "--batch-sizes", "8,0"}), {"'0'", "1 or above"});
}

TEST(CollectOptions, TakeSourcesAndAFile) {
  const auto options =
      std::get<CollectOptions>(parse_command_line({"collect", "dir", "--out", "sweep.h5"}));
  EXPECT_EQ(options.sources, std::vector<std::filesystem::path>{"dir"});
  EXPECT_EQ(options.out, "sweep.h5");
  EXPECT_FALSE(options.overwrite);
  EXPECT_TRUE(std::get<CollectOptions>(
                  parse_command_line({"collect", "dir", "--overwrite", "--out", "sweep.h5"}))
                  .overwrite);
  EXPECT_EQ(std::get<CollectOptions>(
                parse_command_line({"collect", "dir", "run.h5", "--out", "sweep.h5"}))
                .sources,
            (std::vector<std::filesystem::path>{"dir", "run.h5"}));
  expect_parts(error_of({"collect"}), {"directories of sweeps"});
  expect_parts(error_of({"collect", "--out", "x", "dir"}), {"directories of sweeps"});
  expect_parts(error_of({"collect", "dir"}), {"collect needs --out"});
  expect_parts(error_of({"collect", "dir", "--out", "x", "more"}), {"'more'"});
  expect_parts(error_of({"collect", "dir", "--ot", "x"}), {"--ot", "--out"});
}

TEST(ExportOptions, TakeARunFileAndAFormat) {
  const auto parsed = [](std::vector<std::string> words) {
    words.insert(words.begin(), {"export", "run.h5", "--format", "gguf", "--out", "v.gguf"});
    return std::get<ExportOptions>(parse_command_line(words));
  };
  const ExportOptions options = parsed({});
  ASSERT_EQ(options.vectors.size(), 1U);
  EXPECT_EQ(options.vectors[0].file, "run.h5");
  EXPECT_EQ(options.vectors[0].weight, 1);
  EXPECT_EQ(options.format, "gguf");
  EXPECT_EQ(options.out, "v.gguf");
  EXPECT_EQ(options.epoch, std::nullopt);
  EXPECT_EQ(options.multiplier, 1);
  EXPECT_FALSE(options.overwrite);
  EXPECT_EQ(parsed({"--epoch", "1"}).epoch, 1);
  EXPECT_TRUE(options.layers.empty());
  EXPECT_EQ(parsed({"--layer", "20,0"}).layers, (std::vector<std::int64_t>{20, 0}));
  EXPECT_EQ(parsed({"--multiplier", "-1.5"}).multiplier, -1.5);
  EXPECT_TRUE(parsed({"--overwrite"}).overwrite);
  const auto several = std::get<ExportOptions>(
      parse_command_line({"export", "a.h5", "b.h5@0.5", "--format", "gguf", "--out", "v.gguf"}));
  ASSERT_EQ(several.vectors.size(), 2U);
  EXPECT_EQ(several.vectors[1].file, "b.h5");
  EXPECT_EQ(several.vectors[1].weight, 0.5);
  expect_parts(error_of({"export"}), {"run file first"});
  expect_parts(error_of({"export", "--format", "pt"}), {"run file first"});
  expect_parts(error_of({"export", "run.h5"}), {"--format", "--out"});
  expect_parts(error_of({"export", "run.h5", "--out", "x", "--format", "onnx"}),
               {"'onnx'", "lm-eval"});
  expect_parts(error_of({"export", "run.h5", "--epoch", "0"}), {"'0'", "1 or above"});
  expect_parts(error_of({"export", "run.h5", "--layer", "-1"}), {"--layer", "0 or above"});
  expect_parts(error_of({"export", "run.h5", "--layer", "3,3"}), {"--layer", "twice"});
  expect_parts(error_of({"export", "run.h5", "--multiplier", "nan"}), {"'nan'"});
}

TEST(ImportOptions, TakeAFile) {
  const auto parsed = [](std::vector<std::string> words) {
    words.insert(words.begin(), {"import", "v.pt", "--out", "run.h5"});
    return std::get<ImportOptions>(parse_command_line(words));
  };
  const ImportOptions options = parsed({});
  EXPECT_EQ(options.file, "v.pt");
  EXPECT_EQ(options.out, "run.h5");
  EXPECT_EQ(options.format, "auto");
  EXPECT_EQ(options.layer, std::nullopt);
  EXPECT_EQ(options.model, "");
  EXPECT_FALSE(options.overwrite);
  EXPECT_EQ(parsed({"--layer", "0"}).layer, 0);
  EXPECT_EQ(parsed({"--format", "gguf"}).format, "gguf");
  EXPECT_EQ(parsed({"--model", "tiny"}).model, "tiny");
  expect_parts(error_of({"import"}), {"file of a vector first"});
  expect_parts(error_of({"import", "v.pt"}), {"--out"});
  expect_parts(error_of({"import", "v.pt", "--layer", "-1"}), {"'-1'"});
  EXPECT_EQ(options.layer_of_row, "");
  EXPECT_EQ(options.shift, 0);
  EXPECT_EQ(parsed({"--layer-of-row", "r-1"}).layer_of_row, "r-1");
  EXPECT_EQ(parsed({"--shift", "-1"}).shift, -1);
  EXPECT_EQ(parsed({"--format", "npy"}).format, "npy");
  expect_parts(error_of({"import", "v.pt", "--format", "onnx"}), {"'onnx'"});
  expect_parts(error_of({"import", "v.pt", "--layer-of-row", "2"}), {"'2'", "r-1"});
}

TEST(SweepOptions, AxesTakeLists) {
  const SweepOptions options =
      parsed_sweep({"--layers", "1,5:25:5,7:9", "--seeds", "1,2", "--lrs", "1e-3,2e-3", "--betas",
                    "0.1,1", "--signs", "plus,minus", "--vectors-per-pass", "1", "--dry-run",
                    "--tp", "2", "--epochs", "1,3", "--retry-failed"});
  EXPECT_EQ(options.axes.epochs, (std::vector<std::int64_t>{1, 3}));
  EXPECT_TRUE(options.retry_failed);
  EXPECT_EQ(layers_of(options), (std::vector<Triple>{{1, 1, 1}, {5, 25, 5}, {7, 9, 1}}));
  EXPECT_EQ(options.axes.seeds, (std::vector<std::uint64_t>{1, 2}));
  EXPECT_EQ(options.axes.lrs, (std::vector<double>{1e-3, 2e-3}));
  EXPECT_EQ(options.axes.betas, (std::vector<double>{0.1, 1}));
  EXPECT_EQ(options.axes.signs, (Words{"plus", "minus"}));
  EXPECT_EQ(options.vectors_per_pass, 1);
  EXPECT_TRUE(options.dry_run);
  EXPECT_EQ(options.tp, 2);
}

TEST(TrainOptions, TakeAnObjective) {
  const TrainOptions usual = parsed({});
  EXPECT_EQ(usual.objective, ObjectiveKind::kBipo);
  EXPECT_EQ(objective_of(usual), Objective());
  const TrainOptions simpo = parsed(
      {"--objective", "simpo", "--simpo-gamma", "1.25", "--beta", "2", "--label-smoothing", "0.1"});
  EXPECT_EQ(objective_of(simpo),
            (Objective{ObjectiveKind::kSimpo, 2, 0.1, 1.25, Reduction::kMean}));
  EXPECT_EQ(objective_of(parsed({"--objective", "ipo", "--reduction", "sum"})).reduction,
            Reduction::kSum);
  EXPECT_FALSE(parsed({"--reduction", "auto"}).reduction);
  EXPECT_EQ(parsed({"--objective", "dpo", "--sign", "plus"}).sign, SignRule::kPlus);
  EXPECT_EQ(parsed({"--objective", "dpo", "--preset", "paper"}).objective, ObjectiveKind::kDpo);
}

TEST(TrainOptions, RefuseWhatTheObjectiveDoesNotKnow) {
  expect_parts(train_error({"--objective", "orpo"}),
               {"bipo, dpo, ipo, simpo, sft, suppress, reps"});
  expect_parts(train_error({"--objective", "ipo", "--label-smoothing", "0.1"}),
               {"--label-smoothing 0.1", "log sigmoid", "ipo"});
  expect_parts(train_error({"--objective", "sft", "--label-smoothing", "0.1"}), {"sft"});
  expect_parts(train_error({"--simpo-gamma", "1"}), {"--simpo-gamma", "bipo has no such margin"});
  expect_parts(train_error({"--objective", "dpo", "--sign", "both"}),
               {"--sign", "one direction", "--objective bipo"});
  expect_parts(train_error({"--label-smoothing", "0.5"}), {"below 0.5"});
  expect_parts(train_error({"--reduction", "max"}), {"sum, mean, or auto"});
}

TEST(TrainOptions, TakeNormScheduleAndStart) {
  const TrainOptions usual = parsed({});
  EXPECT_EQ(usual.norm, NormChoice());
  EXPECT_EQ(usual.schedule, Schedule::kCosine);
  EXPECT_EQ(usual.start, RandomStart());
  const TrainOptions given = parsed({"--norm", "max:5%", "--schedule", "constant", "--init",
                                     "random:0.25", "--factors", "0.5,1,2"});
  EXPECT_EQ(usual.factors, FactorChoice());
  EXPECT_EQ(given.factors, (FactorChoice{{0.5, 1, 2}, false}));
  expect_parts(train_error({"--factors", "1,0"}), {"--factors", "learned, or", "above 0"});
  expect_parts(train_error({"--factors", "2,2"}), {"--factors", "2 is given twice"});
  EXPECT_EQ(given.norm, (NormChoice{NormRule::kMax, {5, true}}));
  EXPECT_DOUBLE_EQ(given.norm.length.absolute(40), 2);
  EXPECT_EQ(given.schedule, Schedule::kConstant);
  EXPECT_EQ(given.start, (RandomStart{{0.25, false}}));
  EXPECT_EQ(parsed({"--norm", "fixed:3.5"}).norm, (NormChoice{NormRule::kFixed, {3.5, false}}));
  const TrainOptions file = parsed({"--init", "run.h5:best@0.5"});
  EXPECT_EQ(file.continue_from.file, "run.h5");
  EXPECT_EQ(file.continue_from.weight, 0.5);
  EXPECT_TRUE(file.starts_by_init);
  EXPECT_FALSE(parsed({"--continue-from", "run.h5"}).starts_by_init);
  EXPECT_EQ(file.start, RandomStart());
  const IniFile ini("init = run.h5\n");
  EXPECT_TRUE(parsed({"--config", ini.path(), "--init", "zero"}).continue_from.empty());

  for (const char* norm : {"", "max", "max:", "max:0", "max:-1", "fixed:x%", "least:3", "5%"}) {
    expect_parts(train_error({std::string("--norm=") + norm}),
                 {"--norm", "free, max:X or fixed:X", "5%"});
  }
  expect_parts(train_error({"--init", "random:0"}), {"zero or random:X"});
  expect_parts(train_error({"--init", "random:1", "--continue-from", "run.h5"}),
               {"--init and --continue-from", "exclude each other"});
  const SweepOptions swept =
      parsed_sweep({"--layers", "1", "--norm", "fixed:5%", "--init", "random:1%"});
  EXPECT_EQ(swept.norm, (NormChoice{NormRule::kFixed, {5, true}}));
  EXPECT_EQ(swept.start, (RandomStart{{1, true}}));
  expect_parts(sweep_error({"--layers", "1", "--init", "run.h5"}), {"zero or random:X"});
}

TEST(TrainOptions, RepsNeedsFactorsAndHasBothDirections) {
  EXPECT_EQ(parsed({"--objective", "reps", "--factors", "2,4"}).objective, ObjectiveKind::kReps);
  EXPECT_TRUE(parsed({"--objective", "reps", "--factors", "learned"}).factors.is_learned);
  parsed({"--objective", "reps", "--factors", "1", "--sign", "both"});
  expect_parts(train_error({"--objective", "reps"}), {"reps needs --factors", "2,4,6", "learned"});
  expect_parts(train_error({"--objective", "reps", "--factors", "2", "--sign", "plus"}),
               {"--sign", "reps", "in every step"});
  expect_parts(train_error({"--objective", "suppress", "--label-smoothing", "0.1"}), {"suppress"});
  expect_parts(sweep_error({"--layers", "1", "--objectives", "bipo,reps"}),
               {"reps needs --factors"});
  expect_parts(sweep_error({"--layers", "1", "--objective", "reps", "--factors", "2", "--signs",
                            "batch,plus"}),
               {"--signs", "reps"});
}

TEST(TrainOptions, ALearnedFactorHasARateAndAStart) {
  const TrainOptions options =
      parsed({"--factors", "learned", "--factor-lr", "0.5", "--factor-init", "4"});
  EXPECT_TRUE(options.factors.is_learned);
  EXPECT_EQ(options.factors.values, std::vector<double>{1});
  EXPECT_EQ(options.factor_lr, 0.5);
  EXPECT_EQ(options.factor_init, 4);
  expect_parts(train_error({"--factor-lr", "0.5"}), {"--factor-lr", "--factors learned"});
  expect_parts(train_error({"--factors", "2", "--factor-init", "3"}),
               {"--factor-init", "--factors learned"});
  expect_parts(sweep_error({"--layers", "1", "--factors", "1;2", "--factor-lr", "0.5"}),
               {"--factor-lr", "--factors learned"});
}

TEST(TrainOptions, TheRankIsOneWhateverTheObjective) {
  EXPECT_EQ(parsed({"--rank", "1"}).rank, 1);
  EXPECT_EQ(parsed_sweep({"--layers", "1", "--rank", "1"}).rank, 1);
  for (const char* const objective : {"bipo", "dpo", "ipo", "simpo", "sft", "suppress", "reps"}) {
    const Words words = {"--objective", objective, "--factors", "2", "--rank", "2", "--dry-run"};
    expect_parts(train_error(words), {"--rank '2'", "2 of those add up to one vector", "LoReFT"});
  }
  expect_parts(sweep_error({"--layers", "1", "--rank", "3", "--dry-run"}),
               {"--rank '3'", "3 of those add up to one vector"});
  expect_parts(sweep_error({"--layers", "1", "--rank", "1,2"}), {"--rank", "one whole number"});
  expect_parts(train_error({"--rank", "0"}), {"--rank '0'", "1 or above"});
}

// One value is a setting of all cells, as before there were such axes.
TEST(SweepOptions, SeveralNormsSchedulesStartsAndFactorsAreAxes) {
  const SweepOptions one = parsed_sweep({"--layers", "1", "--norms", "max:3%", "--schedule",
                                         "linear", "--inits", "zero", "--factors", "0.5,1"});
  EXPECT_EQ(one.norm, (NormChoice{NormRule::kMax, {3, true}}));
  EXPECT_EQ(one.schedule, Schedule::kLinear);
  EXPECT_EQ(one.factors, (FactorChoice{{0.5, 1}, false}));
  EXPECT_TRUE(one.axes.norms.empty() && one.axes.schedules.empty());
  EXPECT_TRUE(one.axes.inits.empty() && one.axes.factors.empty());
  const SweepOptions several = parsed_sweep(
      {"--layers", "1", "--norm", "max:3.0%,free", "--schedules", "constant,cosine", "--inits",
       "random:1,zero", "--factors", "1;0.5,1;learned", "--factor-lr", "0.5"});
  EXPECT_EQ(several.axes.norms, (Words{"max:3%", "free"}));
  EXPECT_EQ(several.axes.schedules, (Words{"constant", "cosine"}));
  EXPECT_EQ(several.axes.inits, (Words{"random:1", "zero"}));
  EXPECT_EQ(several.axes.factors, (Words{"1", "0.5,1", "learned"}));
  EXPECT_EQ(several.norm, NormChoice());
  EXPECT_EQ(several.factors, FactorChoice());
  expect_parts(sweep_error({"--layers", "1", "--norms", "free,free"}), {"--norms", "twice"});
  expect_parts(sweep_error({"--layers", "1", "--norms", "free,5%"}),
               {"--norms", "free, max:X or fixed:X"});
}

TEST(SweepOptions, ObjectivesAreAxes) {
  const SweepOptions usual = parsed_sweep({"--layers", "1"});
  EXPECT_EQ(usual.axes.objectives, Words{"bipo"});
  EXPECT_EQ(usual.axes.reductions, Words{"auto"});
  const SweepOptions options =
      parsed_sweep({"--layers", "1", "--objectives", "bipo,simpo", "--label-smoothings", "0,0.1",
                    "--simpo-gammas", "0,0.5", "--reduction", "sum"});
  EXPECT_EQ(options.axes.objectives, (Words{"bipo", "simpo"}));
  EXPECT_EQ(options.axes.label_smoothings, (std::vector<double>{0, 0.1}));
  EXPECT_EQ(options.axes.simpo_gammas, (std::vector<double>{0, 0.5}));
  EXPECT_EQ(options.axes.reductions, Words{"sum"});
  expect_parts(
      sweep_error({"--layers", "1", "--objectives", "bipo,ipo", "--label-smoothings", "0,0.1"}),
      {"--label-smoothings 0.1", "ipo"});
  expect_parts(sweep_error({"--layers", "1", "--simpo-gammas", "1"}), {"--simpo-gammas", "simpo"});
  expect_parts(sweep_error({"--layers", "1", "--objective", "dpo", "--signs", "batch,both"}),
               {"--signs", "one direction"});
}

TEST(SweepOptions, TrainsNamesMeanListsOfOne) {
  const SweepOptions options = parsed_sweep(
      {"--layer", "3", "--seed", "4", "--lr", "0.5", "--beta", "0.25", "--sign", "both"});
  EXPECT_EQ(layers_of(options), (std::vector<Triple>{{3, 3, 1}}));
  EXPECT_EQ(options.axes.seeds, (std::vector<std::uint64_t>{4}));
  EXPECT_EQ(options.axes.lrs, (std::vector<double>{0.5}));
  EXPECT_EQ(options.axes.betas, (std::vector<double>{0.25}));
  EXPECT_EQ(options.axes.signs, (Words{"both"}));
  expect_parts(sweep_error({"--layer", "3", "--seed", "1", "--seeds", "2"}),
               {"--seeds '2'", "second time"});
}

TEST(SweepOptions, AllLayersAreNoRange) {
  EXPECT_TRUE(parsed_sweep({"--layers", "all"}).axes.layers.empty());
  expect_parts(sweep_error({}), {"sweep needs --layers;"});
}

TEST(SweepOptions, BadListsNameTheValueAndTheRule) {
  expect_parts(sweep_error({"--layers", "5:1"}), {"'5:1'", "ends before"});
  const auto joint = parsed_sweep({"--layers", "5,20+5+10"}).axes.layers;
  ASSERT_EQ(joint.size(), 2U);
  EXPECT_TRUE(joint[0].joint.empty());
  EXPECT_EQ(joint[1].joint, (std::vector<std::int64_t>{5, 10, 20}));
  EXPECT_EQ(joint[1].first, 5);
  expect_parts(sweep_error({"--layers", "5+5"}), {"'5+5'", "a layer twice"});
  expect_parts(sweep_error({"--layers", "5+9:11"}), {"'9:11'", "is not a layer"});
  expect_parts(sweep_error({"--layers", "1:5:0"}), {"'1:5:0'", "step"});
  expect_parts(sweep_error({"--layers", "1:5:1:2"}), {"4 parts"});
  expect_parts(sweep_error({"--layers", "1,,2"}), {"'' is not a layer"});
  expect_parts(sweep_error({"--layers=-1"}), {"'-1' is not a layer"});
  expect_parts(sweep_error({"--layers", "1", "--seeds", "1,-2"}), {"'-2'", "from 0"});
  expect_parts(sweep_error({"--layers", "1", "--seeds", "1,1"}), {"1 is given twice"});
  expect_parts(sweep_error({"--layers", "1", "--lrs", "0.1,0"}), {"'0'", "above 0"});
  expect_parts(sweep_error({"--layers", "1", "--signs", "plus,up"}), {"'up'", "batch, pair"});
  expect_parts(sweep_error({"--layers", "1", "--vectors-per-pass", "0"}), {"or auto"});
  expect_parts(sweep_error({"--layers", "1", "--resume"}), {"--resume", "sweep --help"});
}

TEST(SweepOptions, ConfigFileHasASectionOfItsOwn) {
  const IniFile file("[sweep]\nlayer = 2\nseeds = 5,6\n");
  const SweepOptions options = parsed_sweep({"--config", file.path()});
  EXPECT_EQ(layers_of(options), (std::vector<Triple>{{2, 2, 1}}));
  EXPECT_EQ(options.axes.seeds, (std::vector<std::uint64_t>{5, 6}));
  const IniFile other("[sweeps]\nlayer = 2\n");
  expect_parts(sweep_error({"--config", other.path()}),
               {":2", "[sweeps] is unknown", "nearest is [sweep]"});
}

TEST(TrainOptions, LayersAreSortedAndOneIsTheUsualCase) {
  const auto layers = [](const char* text) {
    return to_string(
        std::get<TrainOptions>(parse_command_line({"train", "--model", "m", "--train", "t.csv",
                                                   "--layer", text, "--out", "run.h5"}))
            .layer);
  };
  EXPECT_EQ(layers("20,5,10"), "5,10,20");
  EXPECT_EQ(layers("20+5+10"), "5,10,20") << "as in a sweep, whose section may share it";
  EXPECT_EQ(layers("0"), "0");
}

TEST(ConfigFile, HasSectionsForSeveralCommands) {
  const IniFile file(
      "model = shared\n"
      "[train]\ntrain = t.csv\nlayer = 7\nout = o.h5\nlr = 0.5\n"
      "[plan]\nlayer = 9\nmachine = h100\ndevices = 8\n"
      "[evaluate]\nvector = v.h5\ntest = e.csv\nout = e.h5\n"
      "[train]\nepochs = 3\n");
  const auto train = std::get<TrainOptions>(parse_command_line({"train", "--config", file.path()}));
  EXPECT_EQ(train.model, "shared");
  EXPECT_EQ(train.layer, 7);
  EXPECT_EQ(train.lr, 0.5);
  EXPECT_EQ(train.epochs, 3);
  const auto plan = std::get<PlanOptions>(parse_command_line({"plan", "--config", file.path()}));
  EXPECT_EQ(plan.source.model, "shared");
  EXPECT_EQ(plan.layer, 9);
  EXPECT_EQ(plan.devices, 8);
  const auto evaluate =
      std::get<EvaluateOptions>(parse_command_line({"evaluate", "--config", file.path()}));
  EXPECT_EQ(evaluate.model, "shared");
  EXPECT_EQ(evaluate.out, "e.h5");
  EXPECT_EQ(evaluate.vectors.size(), 1U);
}

TEST(ConfigFile, ChecksTheOwnSectionAndTheNamesOfTheOthers) {
  const auto error_in = [](const std::string& text) {
    const IniFile file(text);
    return train_error({"--config", file.path()});
  };
  // What others do with their keys is theirs.
  const IniFile others("[plan]\ndevics = 8\n[evaluate]\nlr = 1\n");
  EXPECT_EQ(parsed({"--config", others.path()}).lr, 3e-3);
  expect_parts(error_in("[plan]\ndevices = 8\n[train]\nlrr = 1\n"),
               {":4", "'lrr'", "nearest is lr;"});
  expect_parts(error_in("[plna]\ndevices = 8\n"), {":2", "[plna] is unknown", "nearest is [plan]"});
  expect_parts(error_in("[inspect]\njson = true\n"), {":2", "[inspect] is unknown"});
  expect_parts(error_in("[train]\nlr = 1\n[plan]\nlayer = 1\n[train]\nlr = 2\n"),
               {":6", "second time"});
  expect_parts(error_in("devices = 8\n"), {":1", "'devices'"});
}

TEST(BenchOptions, TakeAShapeOrAModel) {
  const auto shape = std::get<BenchOptions>(parse_command_line(
      {"bench", "--shape", "llama-2-7b", "--layer", "15", "--dtype", "bf16", "--json"}));
  EXPECT_EQ(shape.source.shape, "llama-2-7b");
  EXPECT_EQ(shape.layer, 15);
  EXPECT_EQ(shape.lengths.prompt_length, 80);
  EXPECT_EQ(shape.lengths.answer_length, 12);
  EXPECT_EQ(shape.lengths.common_prefix, 18);
  EXPECT_FALSE(shape.pairs);
  EXPECT_EQ(shape.batch_size, 4);
  EXPECT_EQ(shape.steps, 10);
  EXPECT_EQ(shape.warmup, 2);
  EXPECT_EQ(shape.dtype, Dtype::kBf16);
  EXPECT_TRUE(shape.json);
  const auto model = std::get<BenchOptions>(parse_command_line(
      {"bench", "--model", "m", "--train", "t.csv", "--layer", "1", "--pairs", "8", "--no-eos"}));
  EXPECT_EQ(model.source.model, "m");
  EXPECT_EQ(model.train, "t.csv");
  EXPECT_EQ(model.pairs, 8);
  EXPECT_TRUE(model.no_eos);
}

TEST(BenchOptions, ContradictionsAreErrors) {
  const auto bench_error = [](const Words& extra) {
    Words words = {"bench", "--layer", "1"};
    words.insert(words.end(), extra.begin(), extra.end());
    return error_of(words);
  };
  expect_parts(bench_error({}), {"--model", "--shape"});
  expect_parts(bench_error({"--model", "m", "--shape", "s"}), {"--model", "--shape"});
  expect_parts(bench_error({"--shape", "s", "--train", "t"}), {"--train needs --model"});
  expect_parts(bench_error({"--model", "m", "--train", "t", "--answer-length", "3"}),
               {"--answer-length", "--train"});
  expect_parts(bench_error({"--shape", "s", "--prompt-length", "10"}),
               {"--common-prefix 18", "--prompt-length 10"});
  expect_parts(bench_error({"--shape", "s", "--micro-batch", "5"}), {"--micro-batch 5"});
  expect_parts(bench_error({"--shape", "s", "--step", "5"}), {"nearest is --steps;", "bench"});
  expect_parts(error_of({"bench", "--shape", "s"}), {"bench needs --layer;"});
}

TEST(PlanOptions, NameAMachineOrAMeasurement) {
  const auto options = std::get<PlanOptions>(
      parse_command_line({"plan", "--shape", "llama-3.1-70b", "--layer", "40", "--machine", "h100",
                          "--devices", "8", "--devices-per-node", "4", "--tp", "4", "--cells", "12",
                          "--test-pairs", "7", "--cuda-graphs", "on"}));
  EXPECT_EQ(options.machine, "h100");
  EXPECT_EQ(options.cuda_graphs, CudaGraphs::kOn);
  EXPECT_EQ(options.devices, 8);
  EXPECT_EQ(options.devices_per_node, 4);
  EXPECT_EQ(options.tp, 4);
  EXPECT_EQ(options.cells, 12);
  EXPECT_EQ(options.test_pairs, 7);
  EXPECT_EQ(options.epochs, 3);
  EXPECT_EQ(options.attention, Attention::kAuto);
  const auto plan_error = [](const Words& extra) {
    Words words = {"plan", "--shape", "s", "--layer", "1"};
    words.insert(words.end(), extra.begin(), extra.end());
    return error_of(words);
  };
  expect_parts(plan_error({"--machine", "h10"}), {"'h10'", "a100-80, h100, h200"});
  expect_parts(plan_error({"--machine", "h100", "--measured", "f"}), {"--machine", "--measured"});
  expect_parts(plan_error({"--devices", "6", "--tp", "4"}), {"--devices 6", "--tp 4"});
  expect_parts(plan_error({"--devices", "6", "--devices-per-node", "4"}),
               {"--devices 6", "--devices-per-node 4"});
}

TEST(CommandLine, ValuesMayBeginWithADashOrStandBehindAnEqualsSign) {
  EXPECT_EQ(parsed({"--multipliers", "-2,-1,0"}).multipliers, (std::vector<double>{-2, -1, 0}));
  EXPECT_EQ(parsed({"--multipliers=-2,+1e-1"}).multipliers, (std::vector<double>{-2, 0.1}));
  EXPECT_EQ(parsed({"--lr=1e-3"}).lr, 1e-3);
  EXPECT_EQ(parsed({"--lr", "1e-3"}).lr, 1e-3);
  EXPECT_EQ(parsed({"--system-prompt=--a = b # c"}).system_prompt, "--a = b # c");
}

TEST(CommandLine, SystemPromptMayBeEmpty) {
  EXPECT_EQ(parsed({"--system-prompt", ""}).system_prompt, "");
  EXPECT_EQ(parsed({"--system-prompt="}).system_prompt, "");
}

TEST(CommandLine, CacheBudgetTakesBinaryUnits) {
  EXPECT_EQ(parsed({"--cache-budget", "12"}).cache_budget, 12U);
  EXPECT_EQ(parsed({"--cache-budget", "2k"}).cache_budget, 2048U);
  EXPECT_EQ(parsed({"--cache-budget", "5G"}).cache_budget, 5368709120U);
  expect_parts(train_error({"--cache-budget", "17179869184G"}), {"--cache-budget", "17179869184G"});
}

TEST(CommandLine, TimeoutTakesUnitsOfTime) {
  EXPECT_EQ(parsed({}).timeout, 600);
  EXPECT_EQ(parsed({"--timeout", "0"}).timeout, 0);
  EXPECT_EQ(parsed({"--timeout", "90"}).timeout, 90);
  EXPECT_EQ(parsed({"--timeout", "2.5s"}).timeout, 2.5);
  EXPECT_EQ(parsed({"--timeout", "1.5m"}).timeout, 90);
  EXPECT_EQ(parsed({"--timeout", "2h"}).timeout, 7200);
  for (const char* wrong : {"", "m", "-1", "nan", "inf", "1e308h", "10 m", "10min", "5d"}) {
    expect_parts(train_error({"--timeout", wrong}), {"--timeout", "90s, 10m"});
  }
}

TEST(CommandLine, ProgressIsOneOfFourWays) {
  EXPECT_EQ(parsed({}).progress, ProgressStyle::kAuto);
  EXPECT_EQ(parsed({"--progress", "bar"}).progress, ProgressStyle::kBar);
  EXPECT_EQ(parsed({"--progress", "lines"}).progress, ProgressStyle::kLines);
  EXPECT_EQ(parsed({"--progress", "none"}).progress, ProgressStyle::kNone);
  EXPECT_TRUE(parsed({"--quiet"}).quiet);
  expect_parts(train_error({"--progress", "dots"}), {"--progress 'dots'", "bar"});
  EXPECT_EQ(parsed({"--log-jsonl", "steps.jsonl"}).log_jsonl, "steps.jsonl");
}

TEST(CommandLine, WatchTakesOnePlace) {
  const auto watch = [](std::vector<std::string> words) {
    words.insert(words.begin(), "watch");
    return std::get<WatchOptions>(parse_command_line(words));
  };
  EXPECT_EQ(watch({"sweep"}).path, "sweep");
  EXPECT_EQ(watch({"sweep"}).every, 5);
  EXPECT_FALSE(watch({"sweep"}).once);
  EXPECT_EQ(watch({"run.h5", "--every", "0.5"}).every, 0.5);
  EXPECT_TRUE(watch({"run.h5", "--once"}).once);
  expect_parts(error_of({"watch"}), {"watch takes", "run file"});
  expect_parts(error_of({"watch", "run.h5", "--every", "0"}), {"--every '0'"});
}

TEST(CommandLine, MissingRequiredOptionsAreListedAtOnce) {
  expect_parts(error_of({"train"}), {"--model", "--train", "--layer", "--out"});
  const std::string message = error_of({"train", "--layer", "1", "--model", "m"});
  expect_parts(message, {"--train", "--out"});
  EXPECT_EQ(message.find("--layer"), std::string::npos);
}

TEST(CommandLine, UnknownOptionsNameTheNearest) {
  expect_parts(train_error({"--lrr", "1"}), {"--lrr", "nearest is --lr;"});
  expect_parts(train_error({"--beat=1"}), {"--beat;", "nearest is --beta;"});
  expect_parts(train_error({"--multi", "1"}), {"--multi;", "nearest is --multipliers;"});
  expect_parts(train_error({"-lr", "1"}), {"-lr;", "nearest is --lr;"});
  expect_parts(train_error({"--save_every", "1"}), {"nearest is --save-every;"});
}

TEST(CommandLine, AbbreviationsAreNotGuessed) {
  expect_parts(train_error({"--epoch", "1"}), {"unknown option --epoch;", "--epochs"});
}

TEST(CommandLine, WordsThatBelongToNoOptionAreErrors) {
  expect_parts(train_error({"more.csv"}), {"'more.csv'"});
  expect_parts(train_error({"--resume", "run.h5"}), {"'run.h5'"});
  expect_parts(train_error({"--", "more.csv"}), {"'more.csv'"});
}

TEST(CommandLine, FlagsTakeNoValue) {
  expect_parts(train_error({"--resume=yes"}), {"--resume"});
}

TEST(CommandLine, AnOptionIsNoValueOfAnother) {
  expect_parts(train_error({"--test", "--skip-bad"}), {"--test", "--skip-bad", "needs a value"});
  expect_parts(train_error({"--test"}), {"--test"});
}

TEST(CommandLine, RepetitionIsAnError) {
  expect_parts(train_error({"--lr", "1", "--lr", "1"}), {"lr", "second time"});
  expect_parts(train_error({"--skip-bad", "--skip-bad"}), {"--skip-bad", "second time"});
}

TEST(CommandLine, ResumeAndOverwriteExcludeEachOther) {
  expect_parts(train_error({"--resume", "--overwrite"}), {"--resume", "--overwrite"});
}

TEST(ExportOptions, NameAnEpochBehindTheFile) {
  const auto vector = [](const std::string& word) {
    const auto parsed =
        parse_command_line({"export", word, "--format", "npy", "--out", "vector.npy"});
    return std::get<ExportOptions>(parsed).vectors.at(0);
  };
  EXPECT_EQ(vector("run.h5:best@0.5").file, "run.h5");
  EXPECT_EQ(vector("run.h5:best@0.5").weight, 0.5);
  EXPECT_EQ(to_string(vector("run.h5:best@0.5").selection), "best");
  expect_parts(error_of({"export", "run.h5:epoch=0", "--format", "npy", "--out", "v.npy"}),
               {"'run.h5:epoch=0'", "counted from 1"});
}

TEST(CommandLine, WhatComparesEpochsNeedsHeldOutMargins) {
  EXPECT_EQ(parsed({"--test", "t.csv", "--select", "best"}).select, Select::kBest);
  EXPECT_EQ(parsed({"--test", "t.csv", "--patience", "2"}).patience, 2);
  EXPECT_EQ(parsed({}).select, Select::kLast);
  EXPECT_EQ(parsed({}).patience, 0);
  for (const Words& option : {Words{"--select", "best"}, Words{"--patience", "2"}}) {
    const auto error = [&](const Words& others) {
      Words words = option;
      words.insert(words.end(), others.begin(), others.end());
      return train_error(words);
    };
    expect_parts(error({}), {option[0], "needs --test"});
    expect_parts(error({"--test", "t.csv", "--eval-every", "0"}), {option[0], "--eval-every 0"});
    expect_parts(error({"--test", "t.csv", "--multipliers", "-1,0,2"}),
                 {option[0], "-1 and 1 among the --multipliers"});
  }
}

TEST(CommandLine, ARunContinuesFromAVectorByItsName) {
  EXPECT_TRUE(parsed({}).continue_from.empty());
  const VectorChoice choice = parsed({"--continue-from", "old.h5:epoch=3"}).continue_from;
  EXPECT_EQ(choice.file, "old.h5");
  EXPECT_EQ(choice.selection.epoch, 3);
}

TEST(CommandLine, MicroBatchIsPartOfTheBatch) {
  EXPECT_EQ(parsed({"--micro-batch", "4"}).micro_batch, 4);
  expect_parts(train_error({"--micro-batch", "5"}), {"--micro-batch 5", "--batch-size 4"});
}

ExtractOptions parsed_extract(const Words& extra) {
  Words words = {"extract", "--model", "m", "--train", "t.csv", "--out", "caa"};
  words.insert(words.end(), extra.begin(), extra.end());
  return std::get<ExtractOptions>(parse_command_line(words));
}

TEST(ExtractOptions, OneLayerOrSeveral) {
  EXPECT_EQ(parsed_extract({"--layer", "3"}).layer, 3);
  const ExtractOptions all = parsed_extract({"--layers", "all"});
  EXPECT_EQ(all.layer, -1);
  EXPECT_TRUE(all.layers.empty());
  EXPECT_EQ(parsed_extract({"--layers", "5:25:5"}).layers.at(0).step, 5);
  for (const Words& words : {Words{}, Words{"--layer", "3", "--layers", "1,2"}}) {
    expect_parts(error_of<UserError>([&] { parsed_extract(words); }), {"--layer ", "--layers "});
  }
  for (const char* several : {"10,15", "5:25:5", "10+15", "all"}) {
    expect_parts(error_of<UserError>([&] {
                   parsed_extract({"--layer", several});
                 }),
                 {std::string("--layer '") + several, "must be one whole number", "; --layers "});
  }
  expect_parts(error_of<UserError>([] { parsed_extract({"--layer", "-1"}); }), {"0 or above"});
}

TEST(ExtractOptions, AsFoundOrScaledInOneWay) {
  const ExtractOptions found = parsed_extract({"--layer", "3"});
  EXPECT_EQ(found.method, ExtractMethod::kCaa);
  EXPECT_EQ(found.norm, 0);
  EXPECT_TRUE(found.match_norm.empty());
  EXPECT_EQ(parsed_extract({"--layer", "3", "--norm", "2.5"}).norm, 2.5);
  expect_parts(error_of<UserError>([] {
                 parsed_extract({"--layer", "3", "--norm", "2", "--match-norm", "run.h5"});
               }),
               {"--norm", "--match-norm"});
  expect_parts(error_of<UserError>([] {
                 parsed_extract({"--layer", "3", "--norm", "0"});
               }),
               {"--norm", "above 0"});
  expect_parts(error_of<UserError>([] {
                 parsed_extract({"--layer", "3", "--method", "lda"});
               }),
               {"--method", "caa", "probe", "pca"});
}

TEST(ExtractOptions, WhatBelongsToOneMethodIsRefusedWithOthers) {
  EXPECT_EQ(parsed_extract({"--layer", "3", "--method", "probe", "--probe-c", "0.1"}).probe_c, 0.1);
  expect_parts(error_of<UserError>([] {
                 parsed_extract({"--layer", "3", "--probe-c", "2"});
               }),
               {"--probe-c", "--method probe"});
  const ExtractOptions confst = parsed_extract(
      {"--layer", "3", "--method", "confst", "--probe-c", "2", "--confidence", "0.7"});
  EXPECT_EQ(confst.probe_c, 2);
  EXPECT_EQ(confst.confidence, 0.7);
  expect_parts(error_of<UserError>([] {
                 parsed_extract({"--layer", "3", "--method", "probe", "--confidence", "0.7"});
               }),
               {"--confidence", "--method confst"});
  for (const char* const option : {"--columns", "--max-pairs", "--data-seed", "--answer-pairs"}) {
    const std::string value = std::string(option) == "--columns"        ? "prompt=q"
                              : std::string(option) == "--answer-pairs" ? "all"
                                                                        : "3";
    expect_parts(error_of<UserError>([&] {
                   parsed_extract({"--layer", "3", "--method", "caa-letter", option, value});
                 }),
                 {option, "--method caa-letter", "A/B"});
  }
  const ExtractOptions ensemble = parsed_extract(
      {"--layer", "3", "--method", "ensemble", "--vector", "a.h5", "--vector", "b.h5@2"});
  ASSERT_EQ(ensemble.vectors.size(), 2u);
  EXPECT_EQ(ensemble.vectors[1].weight, 2);
  EXPECT_FALSE(ensemble.normalise);
  for (const Words& words : {Words{"--method", "ensemble"}, Words{"--vector", "a.h5"}}) {
    Words all = {"--layer", "3"};
    all.insert(all.end(), words.begin(), words.end());
    expect_parts(error_of<UserError>([&] { parsed_extract(all); }),
                 {"--method ensemble", "--vector"});
  }
  expect_parts(error_of<UserError>([] {
                 parsed_extract({"--layer", "3", "--normalise"});
               }),
               {"--normalise", "--method ensemble"});
  expect_parts(error_of<UserError>([] {
                 parsed_extract({"--layers", "all", "--method", "ensemble", "--vector", "a.h5"});
               }),
               {"--method ensemble", "--layers"});
  EXPECT_EQ(
      parsed_extract({"--layer", "3", "--method", "mean-centring", "--background", "b"}).background,
      "b");
  for (const Words& words : {Words{"--method", "mean-centring"}, Words{"--background", "b.csv"}}) {
    Words all = {"--layer", "3"};
    all.insert(all.end(), words.begin(), words.end());
    expect_parts(error_of<UserError>([&] { parsed_extract(all); }),
                 {"--method mean-centring", "--background"});
  }
}

ExtractOptions parsed_combination(const Words& extra) {
  Words words = {"extract", "--out", "c.h5", "--method"};
  words.insert(words.end(), extra.begin(), extra.end());
  return std::get<ExtractOptions>(parse_command_line(words));
}

TEST(ExtractOptions, ConceptorsAreMadeOfPairsOrOfConceptors) {
  const ExtractOptions made =
      parsed_extract({"--layers", "1,2", "--method", "conceptor", "--aperture", "0.5"});
  EXPECT_EQ(made.aperture, 0.5);
  EXPECT_EQ(parsed_combination({"conceptor-and", "--vector", "a", "--vector", "b"}).vectors.size(),
            2U);
  EXPECT_EQ(parsed_combination({"conceptor-not", "--vector", "a"}).method,
            ExtractMethod::kConceptorNot);
  const auto refused = [](const Words& words, const Words& parts) {
    const std::string error = error_of<UserError>([&] { parsed_combination(words); });
    for (const std::string& part : parts) {
      EXPECT_NE(error.find(part), std::string::npos) << part << " in " << error;
    }
  };
  refused({"conceptor-not", "--vector", "a", "--vector", "b"}, {"one --vector", "2 are given"});
  refused({"conceptor-not"}, {"one --vector"});
  refused({"conceptor-or", "--vector", "a"}, {"at least two", "1 given"});
  refused({"conceptor-and", "--vector", "a@2", "--vector", "b"}, {"--vector a", "weight"});
  refused({"conceptor-and", "--vector", "a", "--vector", "b", "--layer", "1"},
          {"--layer", "files"});
  refused({"conceptor-and", "--vector", "a", "--vector", "b", "--train", "t"}, {"--train"});
  for (const Words& useless : {Words{"--dtype", "bf16"}, Words{"--tp", "2"}, Words{"--no-eos"},
                               Words{"--system-prompt", "x"}, Words{"--answer-pairs", "all"}}) {
    Words words = {"conceptor-and", "--vector", "a", "--vector", "b"};
    words.insert(words.end(), useless.begin(), useless.end());
    refused(words, {useless[0], "neither model nor data"});
  }
  EXPECT_TRUE(parsed_combination({"conceptor-not", "--vector", "a", "--quiet"}).quiet);
  refused({"conceptor-and", "--vector", "a", "--vector", "b", "--aperture", "1"}, {"--aperture"});
  refused({"conceptor-not", "--vector", "a", "--site", "mlp"}, {"--site mlp", "conceptor"});
  refused({"conceptor", "--layer", "1"}, {"extract needs --model, --train"});
  for (const Words& words : {Words{"--method", "caa", "--aperture", "1"},
                             Words{"--method", "conceptor", "--aperture", "0"},
                             Words{"--method", "conceptor", "--norm", "1"},
                             Words{"--method", "conceptor", "--match-norm", "run.h5"},
                             Words{"--method", "conceptor", "--site", "mlp"},
                             Words{"--method", "conceptor", "--vector", "a"}}) {
    Words all = {"--layer", "3"};
    all.insert(all.end(), words.begin(), words.end());
    EXPECT_THROW(parsed_extract(all), UserError) << words[2];
  }
}

TEST(Options, AllBadValuesAreNamedAtOnce) {
  expect_parts(error_of<UserError>([] {
                 parsed({"--epochs", "3,4", "--lr", "fast", "--seed", "-1"});
               }),
               {"--epochs '3,4'", "one whole number", "--lr 'fast'", "--seed '-1'"});
}

struct BadValue {
  const char* option;
  const char* value;
  const char* rule;
};

constexpr BadValue kBadValues[] = {{"model", "", "path"},
                                   {"layer", "-1", "0 or above"},
                                   {"layer", "1.5", "whole number"},
                                   {"layer", " 1", "whole number"},
                                   {"epochs", "0", "1 or above"},
                                   {"epochs", "3x", "whole number"},
                                   {"epochs", "9223372036854775808", "2^63 - 1"},
                                   {"layer", "15:20", "sweep --layers"},
                                   {"layer", "15,20,15", "15 is given twice"},
                                   {"layer", "15,", "commas without blanks"},
                                   {"layer", "5+10,15", "commas without blanks"},
                                   {"layer", "5+5", "5 is given twice"},
                                   {"site", "attention", "block, mlp"},
                                   {"max-steps", "-1", "0 or above"},
                                   {"batch-size", "0", "1 or above"},
                                   {"micro-batch", "0", "1 or above"},
                                   {"micro-batch", "all", "or auto"},
                                   {"lr", "0", "above 0"},
                                   {"lr", "-1", "above 0"},
                                   {"lr", "inf", "finite"},
                                   {"lr", "nan", "finite"},
                                   {"lr", "1e999", "finite"},
                                   {"lr", "1e-3,", "finite"},
                                   {"lr", "", "finite"},
                                   {"beta", "0", "above 0"},
                                   {"weight-decay", "-0.1", "0 or above"},
                                   {"max-grad-norm", "-1", "0 or above"},
                                   {"warmup-steps", "-1", "0 or above"},
                                   {"sign", "Plus", "batch, pair, both, plus, minus"},
                                   {"lr-unit", "rms", "absolute, residual"},
                                   {"shuffle", "yes", "on, off"},
                                   {"seed", "-1", "from 0"},
                                   {"seed", "18446744073709551616", "2^64 - 1"},
                                   {"multipliers", "", "finite"},
                                   {"multipliers", "1,,2", "finite"},
                                   {"multipliers", "1,nan", "finite"},
                                   {"multipliers", "1,2,1.0", "twice"},
                                   {"multipliers", "0,-0", "twice"},
                                   {"eval-every", "-1", "0 or above"},
                                   {"save-every", "-1", "0 or above"},
                                   {"dtype", "fp16", "auto, fp32, bf16"},
                                   {"device", "gpu", "auto, cpu, cuda"},
                                   {"tp", "0", "1 or above"},
                                   {"dp", "0", "1 or above"},
                                   {"threads", "0", "or auto"},
                                   {"max-length", "-1", "0 or above"},
                                   {"cache-budget", "G", "bytes"},
                                   {"cache-budget", "-1", "bytes"},
                                   {"cache-budget", "1.5G", "bytes"},
                                   {"template-date", "2023-02-29", "day of the calendar"},
                                   {"template-date", "26 Jul 2024", "YYYY-MM-DD"},
                                   {"chat-template", "", "empty"}};

// The required options, but with `bad` in the place of its own.
Words words_with(const BadValue& bad) {
  const std::string option = std::string("--") + bad.option;
  Words words = train_words({option + "=" + bad.value});
  const auto given = std::find(words.begin(), words.end(), option);
  if (given != words.end()) {
    words.erase(given, given + 2);
  }
  return words;
}

TEST(BadValues, NameOptionValueAndRule) {
  for (const BadValue& bad : kBadValues) {
    SCOPED_TRACE(std::string(bad.option) + " = " + bad.value);
    expect_parts(error_of(words_with(bad)),
                 {bad.option, std::string("'") + bad.value + "'", bad.rule});
  }
}

TEST(ConfigFile, GivesWhatTheCommandLineDoesNot) {
  const IniFile file(
      "# a comment\n; another\n\n[train]\nmodel = dir with blanks\r\ntrain=t\nlayer\t= 7\nout = "
      "o.h5\n"
      "lr = 0.5\nresume = true\nno-eos = false\n");
  const auto options = std::get<TrainOptions>(
      parse_command_line({"train", "--lr", "0.25", "--config", file.path()}));
  EXPECT_EQ(options.model, "dir with blanks");
  EXPECT_EQ(options.layer, 7);
  EXPECT_EQ(options.lr, 0.25);
  EXPECT_TRUE(options.resume);
  EXPECT_FALSE(options.no_eos);
}

TEST(TrainOptions, WarmUpIsAShareOrSteps) {
  EXPECT_EQ(std::get<double>(parsed({"--warmup", "0.1"}).warmup.value()), 0.1);
  EXPECT_EQ(std::get<std::int64_t>(parsed({"--warmup", "20"}).warmup.value()), 20);
  EXPECT_FALSE(parsed({"--warmup", "auto"}).warmup);
  expect_parts(train_error({"--warmup", "1.5"}), {"--warmup '1.5'", "0.1", "20", "auto"});
  expect_parts(train_error({"--warmup", "3", "--warmup-steps", "3"}),
               {"--warmup and --warmup-steps", "exclude each other"});
}

// Every value of the presets' help differs from what the options hold before it.
TEST(TrainOptions, APresetSetsWhatIsNotGiven) {
  const IniFile other("lr = 0.25\nsign = pair\n");
  const TrainOptions paper = parsed({"--preset", "paper"});
  EXPECT_EQ(paper.epochs, 20);
  EXPECT_EQ(paper.batch_size, 4);
  EXPECT_EQ(paper.lr, 5e-4);
  EXPECT_EQ(paper.lr_unit, LrUnit::kAbsolute);
  EXPECT_EQ(paper.beta, 0.1);
  EXPECT_EQ(paper.weight_decay, 0);
  EXPECT_EQ(paper.max_grad_norm, 1);
  EXPECT_EQ(paper.warmup_steps, 100);
  EXPECT_EQ(paper.sign, SignRule::kBatch);
  EXPECT_TRUE(paper.shuffle);

  const TrainOptions mixed = parsed({"--epochs", "3", "--preset", "paper", "--config", other.path(),
                                     "--lr-unit", "residual", "--shuffle", "off"});
  EXPECT_EQ(mixed.epochs, 3);
  EXPECT_EQ(mixed.lr, 0.25);
  EXPECT_EQ(mixed.sign, SignRule::kPair);
  EXPECT_EQ(mixed.lr_unit, LrUnit::kResidual);
  EXPECT_FALSE(mixed.shuffle);
  EXPECT_EQ(mixed.warmup_steps, 100);
}

TEST(TrainOptions, APresetLeavesAWarmUpThatIsGiven) {
  const TrainOptions share = parsed({"--preset", "paper", "--warmup", "0.1"});
  EXPECT_TRUE(share.warmup);
  EXPECT_FALSE(share.warmup_steps);
  EXPECT_EQ(parsed({"--preset", "paper", "--warmup-steps", "7"}).warmup_steps, 7);
}

TEST(TrainOptions, APresetStandsInAConfigurationFile) {
  const IniFile file("preset = paper\nbeta = 0.5\n");
  const TrainOptions options = parsed({"--config", file.path()});
  EXPECT_EQ(options.warmup_steps, 100);
  EXPECT_EQ(options.beta, 0.5);
  const IniFile wrong("preset = papers\n");
  expect_parts(train_error({"--config", wrong.path()}), {":1", "must be one of paper"});
  expect_parts(printed({"train", "--help"}), {"--preset NAME", "warmup-steps 100", "lr 5e-4"});
}

TEST(SweepOptions, APresetSetsTheAxes) {
  const SweepOptions options = std::get<SweepOptions>(
      parse_command_line({"sweep", "--models", "m", "--train", "t.csv", "--layers", "1", "--out",
                          "s", "--preset", "paper", "--lr", "0.5", "--seeds", "1,2"}));
  EXPECT_EQ(options.axes.lrs, std::vector<double>{0.5});
  EXPECT_EQ(options.axes.betas, std::vector<double>{0.1});
  EXPECT_EQ(options.axes.epochs, std::vector<std::int64_t>{20});
  EXPECT_EQ(options.axes.batch_sizes, std::vector<std::int64_t>{4});
  EXPECT_EQ(options.axes.signs, std::vector<std::string>{"batch"});
  EXPECT_EQ(options.warmup_steps, 100);
}

TEST(TrainOptions, NoBosIsAnotherSpellingOfBosNever) {
  EXPECT_EQ(parsed({"--no-bos"}).bos, BosRule::kNever);
  EXPECT_EQ(parsed({"--bos", "never"}).bos, BosRule::kNever);
  const IniFile never("no-bos = true\n");
  EXPECT_EQ(parsed({"--config", never.path()}).bos, BosRule::kNever);
  EXPECT_EQ(parsed({"--config", never.path(), "--bos", "always"}).bos, BosRule::kAlways);
  const IniFile as_before("no-bos = false\n");
  EXPECT_EQ(parsed({"--config", as_before.path()}).bos, BosRule::kAuto);
  expect_parts(train_error({"--bos", "always", "--no-bos"}), {"--no-bos", "second time"});
  expect_parts(train_error({"--bos", "as in 0.1"}), {"auto, always, never"});
  const IniFile wrong("no-bos = yes\n");
  expect_parts(train_error({"--config", wrong.path()}), {":1", "true, false"});
}

TEST(ConfigFile, ValuesSurviveAsWritten) {
  const IniFile file("system-prompt =  Say \"#1\" = best; then stop # really \n");
  EXPECT_EQ(parsed({"--config", file.path()}).system_prompt,
            "Say \"#1\" = best; then stop # really");
}

TEST(ConfigFile, MistakesNameFileAndLine) {
  const auto error_in = [](const std::string& text) {
    const IniFile file(text);
    std::string message = train_error({"--config", file.path()});
    expect_parts(message, {file.path()});
    return message;
  };
  expect_parts(error_in("lr = 1\n\nlearning-rate = 1\n"), {":3", "'learning-rate'", "nearest is"});
  expect_parts(error_in("warmup_steps = 1\n"), {":1", "nearest is warmup-steps;"});
  expect_parts(error_in("lr = 0\n"), {":1: lr = '0'", "above 0"});
  expect_parts(error_in("\nlr\n"), {":2", "option = value"});
  expect_parts(error_in("lr = 1\nlr = 2\n"), {":2", "second time"});
  expect_parts(error_in("resume = yes\n"), {":1", "true, false"});
  expect_parts(error_in("[training]\nlr = 1\n"), {":2", "[training]", "[train]"});
  expect_parts(error_in("config = other.ini\n"), {":1", "command line only"});
}

TEST(ConfigFile, MissingFileIsAnError) {
  expect_parts(train_error({"--config", "/nonexistent.ini"}), {"/nonexistent.ini"});
  expect_parts(train_error({"--config", "/"}), {"--config /"});
}

TEST(Commands, InspectTakesOneFile) {
  const auto options = std::get<InspectOptions>(parse_command_line({"inspect", "run.h5"}));
  EXPECT_EQ(options.run_file, "run.h5");
  EXPECT_FALSE(options.json);
  for (const Words& words :
       {Words{"inspect", "run.h5", "--json"}, {"inspect", "--json", "run.h5"}}) {
    const auto as_json = std::get<InspectOptions>(parse_command_line(words));
    EXPECT_EQ(as_json.run_file, "run.h5");
    EXPECT_TRUE(as_json.json);
  }
  expect_parts(error_of({"inspect"}), {"one run file"});
  expect_parts(error_of({"inspect", "--json"}), {"one run file"});
  expect_parts(error_of({"inspect", "a", "b"}), {"'b'"});
  expect_parts(error_of({"inspect", "a", "--hepl"}), {"--hepl", "--help"});
}

TEST(Commands, JsonIsForWhatIsPrinted) {
  EXPECT_TRUE(std::get<CollectOptions>(
                  parse_command_line({"collect", "dir", "--out", "sweep.h5", "--json"}))
                  .json);
  EXPECT_TRUE(parsed_sweep({"--layers", "1", "--dry-run", "--json"}).json);
  expect_parts(sweep_error({"--layers", "1", "--json"}), {"--json", "--dry-run"});
  EXPECT_NO_THROW(
      parse_command_line({"evaluate", "--judge-import", "s", "--out", "e.h5", "--json"}));
  expect_parts(train_error({"--json"}), {"unknown option --json"});
}

TEST(AnalysisOptions, TakePathsFirst) {
  const auto report = [](const Words& words) {
    return std::get<AnalysisOptions>(parse_command_line(words));
  };
  const AnalysisOptions plain = report({"report", "run.h5"});
  EXPECT_EQ(plain.paths, std::vector<std::filesystem::path>{"run.h5"});
  EXPECT_EQ(plain.out, "report.html");
  EXPECT_TRUE(plain.python.empty());
  const AnalysisOptions full =
      report({"report", "a", "b", "--out", "page.html", "--generations", "x.jsonl", "--generations",
              "y.jsonl", "--python", "python3"});
  EXPECT_EQ(full.paths, (std::vector<std::filesystem::path>{"a", "b"}));
  EXPECT_EQ(full.out, "page.html");
  EXPECT_EQ(full.generations, (std::vector<std::filesystem::path>{"x.jsonl", "y.jsonl"}));
  EXPECT_EQ(full.python, "python3");
  expect_parts(error_of({"report"}), {"report takes runs", "--out"});
  expect_parts(error_of({"report", "--out", "x.html"}), {"report takes runs"});
  expect_parts(error_of({"report", "a", "--out", "x.html", "b"}), {"'b'", "report"});
  expect_parts(error_of({"report", "a", "--pyhton", "p"}), {"--pyhton", "--python"});
  expect_parts(printed({"report", "--help"}), {"bipo-dist report", "--python", "Exit codes"});
}

TEST(Commands, UnknownOnesNameTheNearest) {
  expect_parts(error_of({"trian"}), {"'trian'", "nearest is train;"});
  expect_parts(error_of({"inpsect", "x"}), {"nearest is inspect;"});
  expect_parts(error_of({"swep"}), {"nearest is sweep;"});
  expect_parts(error_of({"imprt"}), {"nearest is import;"});
  expect_parts(error_of({}), {"--help"});
}

TEST(Commands, VersionComesFromTheBuild) {
  expect_parts(printed({"--version"}), {"bipo-dist", kProgramVersion, kGitCommit});
  EXPECT_TRUE(
      std::holds_alternative<DescribeBuild>(parse_command_line({"--version", "--verbose"})));
  expect_parts(error_of({"--version", "--verbos"}), {"--verbos", "--verbose"});
}

const Words kCommandNames = {"train", "sweep",   "collect", "generate",   "evaluate", "extract",
                             "data",  "inspect", "watch",   "export",     "import",   "bench",
                             "plan",  "report",  "help",    "completion", "man"};

TEST(Help, OfACommandIsItsPage) {
  EXPECT_EQ(printed({"help"}), printed({"--help"}));
  for (const std::string& command : kCommandNames) {
    EXPECT_EQ(printed({"help", command}), printed({command, "--help"})) << command;
    expect_parts(printed({"help"}), {"\n  " + command + " "});
  }
  expect_parts(error_of({"help", "trian"}), {"'trian'", "nearest is train;"});
  expect_parts(error_of({"help", "train", "sweep"}), {"one command", "help train"});
}

// The options that a page lists, each at the beginning of a line.
Words options_of(const std::string& command) {
  std::istringstream page(printed({"help", command}));
  Words options;
  for (std::string line; std::getline(page, line);) {
    if (line.starts_with("  --")) {
      options.push_back(line.substr(2, line.find(' ', 2) - 2));
    }
  }
  return options;
}

TEST(Completion, NamesEveryCommandAndOption) {
  const std::string bash = printed({"completion", "bash"});
  const std::string zsh = printed({"completion", "zsh"});
  for (const std::string& command : kCommandNames) {
    const std::string function = "_bipo_dist_" + command + "() {";
    for (const std::string& script : {bash, zsh}) {
      const std::size_t begin = script.find(function);
      ASSERT_NE(begin, std::string::npos) << command;
      const std::string body = script.substr(begin, script.find("\n}\n", begin) - begin);
      EXPECT_FALSE(options_of(command).empty());
      for (const std::string& option : options_of(command)) {
        EXPECT_TRUE(std::regex_search(body, std::regex(option + "[^-a-z]"))) << command << option;
      }
    }
  }
  EXPECT_TRUE(zsh.starts_with("#compdef bipo-dist\n"));
  expect_parts(error_of({"completion"}), {"bash", "zsh"});
  expect_parts(error_of({"completion", "fish"}), {"'fish'", "bash", "zsh"});
}

TEST(ManPage, DescribesEveryCommandAndOption) {
  const std::string page = printed({"man"});
  for (const std::string& command : kCommandNames) {
    const std::size_t begin = page.find("\n.SS " + command + "\n");
    ASSERT_NE(begin, std::string::npos) << command;
    const std::string section = page.substr(begin, page.find("\n.S", begin + 2) - begin);
    for (const std::string& option : options_of(command)) {
      const std::string escaped = std::regex_replace(option, std::regex("-"), "\\-");
      EXPECT_NE(section.find("\n\\fB" + escaped + "\\fR"), std::string::npos) << command << option;
    }
  }
  for (const char* part : {".TH BIPO\\-DIST 1", ".SH NAME", ".SH SYNOPSIS", ".SH EXIT STATUS"}) {
    EXPECT_NE(page.find(part), std::string::npos) << part;
  }
  expect_parts(error_of({"man", "train"}), {"'train'", "man -l"});
}

TEST(Help, ListsEveryOptionOfTheDesignOnALineOfItsOwn) {
  const std::string help = printed({"train", "--help"});
  for (const char* name : {"model",
                           "train",
                           "test",
                           "layer",
                           "site",
                           "out",
                           "resume",
                           "continue-from",
                           "overwrite",
                           "dry-run",
                           "epochs",
                           "max-steps",
                           "patience",
                           "batch-size",
                           "micro-batch",
                           "lr",
                           "lr-unit",
                           "objective",
                           "beta",
                           "label-smoothing",
                           "simpo-gamma",
                           "reduction",
                           "factors",
                           "factor-lr",
                           "factor-init",
                           "rank",
                           "positions",
                           "steer-bos",
                           "norm",
                           "schedule",
                           "init",
                           "weight-decay",
                           "max-grad-norm",
                           "preset",
                           "warmup",
                           "warmup-steps",
                           "sign",
                           "shuffle",
                           "seed",
                           "multipliers",
                           "eval-every",
                           "select",
                           "save-every",
                           "dtype",
                           "device",
                           "tp",
                           "dp",
                           "threads",
                           "deterministic",
                           "kernels",
                           "attention",
                           "cuda-graphs",
                           "timeout",
                           "progress",
                           "quiet",
                           "log-jsonl",
                           "system-prompt",
                           "chat-template",
                           "template-date",
                           "template-arg",
                           "train-turns",
                           "no-eos",
                           "bos",
                           "no-bos",
                           "max-length",
                           "skip-bad",
                           "cache-budget",
                           "cache-dtype",
                           "cache-dir",
                           "cache-shared",
                           "config",
                           "help"}) {
    const std::string start = std::string("\n  --") + name + " ";
    EXPECT_NE(help.find(start), std::string::npos) << name;
  }
  expect_parts(help, {"Exit codes", "75", "Example", "(default 0.003)", "(default -1,0,1)"});
}

TEST(Help, StaysWithin100Columns) {
  std::vector<Words> pages = {{"--help"}};
  for (const std::string& command : kCommandNames) {
    pages.push_back({command, "--help"});
  }
  for (const Words& page : pages) {
    std::istringstream lines(printed(page));
    for (std::string line; std::getline(lines, line);) {
      EXPECT_LE(line.size(), 100U) << page.front() << ": " << line;
    }
  }
}

TEST(Help, LongListsOfValuesAreWrapped) {
  const std::string page = printed({"extract", "--help"});
  expect_parts(page, {"\n  --method caa|probe|pca|", "|conceptor-and|\n           conceptor-or|",
                      "|conceptor-not\n                              how the direction is made"});
  const std::string short_ones = "\n  --norm X                    scale the direction";
  EXPECT_NE(page.find(short_ones), std::string::npos);
}

TEST(TrainOptions, TemplateArgumentsAreNamesWithJson) {
  const auto rule = [](const std::string& argument) {
    try {
      parsed({"--template-arg", argument});
      return std::string("accepted");
    } catch (const UserError& error) {
      return std::string(error.what());
    }
  };
  expect_parts(rule("effort=high"), {"--template-arg", "'high' is not JSON", "'effort=\"high\"'"});
  expect_parts(rule("enable_thinking=False"), {"'False' is not JSON", "true, false"});
  for (const char* argument : {"enable_thinking", "=1", "1a=2", "a-b=2", ""}) {
    expect_parts(rule(argument), {"must be NAME=JSON"});
  }
  expect_parts(rule("add_generation_prompt=false"), {"add_generation_prompt is no variable"});
  EXPECT_EQ(rule("a={\"b\": [1, null]}"), "accepted");
  EXPECT_THROW(parsed({"--template-arg", "a=1", "--template-arg", "a=2"}), UserError);
}

TEST(DataOptions, TakeAFileFirst) {
  const auto options = std::get<ShowDataOptions>(parse_command_line(
      {"data", "pairs.csv", "--model", "m", "--chat-template", "raw", "--json"}));
  EXPECT_EQ(options.file, "pairs.csv");
  EXPECT_EQ(options.model, "m");
  EXPECT_EQ(options.chat_template, "raw");
  EXPECT_TRUE(options.json);
  EXPECT_THROW(parse_command_line({"data", "--model", "m"}), UserError);
  EXPECT_THROW(parse_command_line({"data", "pairs.csv"}), UserError);
}

TEST(Help, IsGivenWhateverElseIsWrong) {
  EXPECT_EQ(printed({"train", "--nonsense", "--help"}), printed({"train", "-h"}));
  expect_parts(printed({"inspect", "--help"}), {"bipo-dist inspect"});
  for (const char* command : {"sweep", "bench", "plan"}) {
    expect_parts(printed({command, "--help"}), {std::string("bipo-dist ") + command, "Example"});
  }
  expect_parts(printed({"collect", "--help"}), {"bipo-dist collect", "--overwrite"});
  expect_parts(printed({"export", "--help"}), {"bipo-dist export", "--multiplier", "lm-eval"});
  expect_parts(printed({"import", "--help"}), {"bipo-dist import", "--layer", "--vector"});
  expect_parts(printed({"--help"}), {"train", "sweep", "collect", "export", "import", "inspect",
                                     "bench", "plan", "--version"});
}

TEST(NearestName, CountsEditsWithSwapsAndPrefersWhatTheWordBegins) {
  EXPECT_EQ(nearest_name("abdc", {"abxx", "abcd"}), "abcd");
  EXPECT_EQ(nearest_name("kitten", {"mitt", "sitting"}), "mitt");  // 3 edits each: the first
  EXPECT_EQ(nearest_name("LR", {"tp", "lr"}), "lr");
  EXPECT_EQ(nearest_name("mu", {"mo", "multipliers"}), "multipliers");
}

Words evaluate_words(const Words& extra) {
  Words words = {"evaluate", "--model", "m", "--vector", "v.h5", "--out", "eval.h5"};
  words.insert(words.end(), extra.begin(), extra.end());
  return words;
}

TEST(EvaluateOptionsTest, FormsWithoutAModelTakeOnlyTheirOptions) {
  const Words exporting = {"evaluate",      "--judge-export", "r.jsonl",
                           "--generations", "g.jsonl",        "--rubric",
                           "r.txt",         "--behaviour",    "b"};
  const Words importing = {"evaluate", "--judge-import", "s.jsonl", "--out", "eval.h5"};
  const auto with = [](Words words, const Words& extra) {
    words.insert(words.end(), extra.begin(), extra.end());
    return words;
  };
  for (const Words& used : {Words{"--judge-model", "j", "--test", "t.csv", "--choices-ab", "c.csv"},
                            Words{"--judge-scale", "0-2"}, Words{"--skip-bad", "--overwrite"},
                            Words{"--judge-import", "s.jsonl", "--out", "e.h5"}}) {
    EXPECT_NO_THROW(parse_command_line(with(exporting, used))) << used.front();
  }
  EXPECT_NO_THROW(parse_command_line(with(importing, {"--seed", "3", "--judge-scale", "0-2"})));
  EXPECT_NO_THROW(
      parse_command_line(with(importing, {"--generations", "g.jsonl", "--behaviour", "b"})));
  for (const Words& unused :
       {Words{"--vector", "v.h5"}, Words{"--multipliers", "1,2"}, Words{"--beta", "0.5"},
        Words{"--tp", "2"}, Words{"--positions", "answer"}, Words{"--system-prompt", "s"},
        Words{"--random-control", "off"}, Words{"--random", "3"}, Words{"--choose-on", "half"},
        Words{"--mmlu", "d"}}) {
    for (const Words& form : {exporting, importing}) {
      expect_parts(error_of(with(form, unused)), {unused.front(), "without --model"});
    }
  }
  expect_parts(error_of(with(exporting, {"--out", "eval.h5"})), {"--out", "no use"});
  expect_parts(error_of(with(exporting, {"--seed", "3"})), {"--seed", "no use"});
  for (const Words& unused : {Words{"--test", "t.csv"}, Words{"--overwrite"}, Words{"--skip-bad"},
                              Words{"--judge-model", "j"}, Words{"--rubric", "r.txt"}}) {
    expect_parts(error_of(with(importing, unused)), {unused.front(), "no use"});
  }
  expect_parts(error_of(with(importing, {"--behaviour", "b"})), {"--generations", "together"});
}

TEST(EvaluateOptionsTest, OptionsOfJudgesNeedTheirFiles) {
  EXPECT_NO_THROW(parse_command_line(evaluate_words({"--test", "t.csv"})));
  const auto refused = [](const Words& extra, const std::vector<std::string>& parts) {
    Words words = {"--generations", "g.jsonl"};
    words.insert(words.end(), extra.begin(), extra.end());
    expect_parts(error_of(evaluate_words(words)), parts);
  };
  refused({"--behaviour", "b"}, {"--behaviour", "--judge-export"});
  refused({"--judge-model", "j"}, {"--judge-model", "--judge-export"});
  refused({"--judge-scale", "0-2"}, {"--judge-scale", "--judge-import"});
  refused({"--rubric", "r.txt"}, {"--rubric", "--judge-export"});
}

EvaluateOptions parsed_evaluate(const Words& extra) {
  return std::get<EvaluateOptions>(parse_command_line(evaluate_words(extra)));
}

TEST(EvaluateOptionsTest, RandomDirectionsAreANumber) {
  EXPECT_EQ(parsed_evaluate({"--test", "t.csv"}).random_directions(), 1);
  EXPECT_EQ(parsed_evaluate({"--test", "t.csv", "--random", "10"}).random_directions(), 10);
  EXPECT_EQ(parsed_evaluate({"--test", "t.csv", "--random", "0"}).random_directions(), 0);
  EXPECT_EQ(parsed_evaluate({"--test", "t.csv", "--random-control", "off"}).random_directions(), 0);
  EXPECT_NO_THROW(parsed_evaluate({"--mmlu", "d", "--random", "1"}));
  expect_parts(error_of(evaluate_words({"--mmlu", "d", "--random", "2"})), {"--random", "--test"});
  expect_parts(
      error_of(evaluate_words({"--test", "t.csv", "--random", "2", "--random-control", "off"})),
      {"--random", "--random-control", "contradict"});
  expect_parts(error_of(evaluate_words({"--test", "t.csv", "--random", "-1"})),
               {"--random '-1'", "0 or above"});
}

TEST(EvaluateOptionsTest, AShareOfThePairsMayChoose) {
  EXPECT_FALSE(parsed_evaluate({"--test", "t.csv"}).choose_on);
  EXPECT_EQ(parsed_evaluate({"--test", "t.csv", "--choose-on", "half"}).choose_on, 0.5);
  EXPECT_EQ(parsed_evaluate({"--test", "t.csv", "--choose-on", "0.3"}).choose_on, 0.3);
  expect_parts(error_of(evaluate_words({"--mmlu", "d", "--choose-on", "half"})),
               {"--choose-on", "--test"});
  for (const char* share : {"0", "1", "-0.5", "even", "nan", ""}) {
    expect_parts(error_of(evaluate_words({"--test", "t.csv", std::string("--choose-on=") + share})),
                 {"--choose-on", "half"});
  }
}

TEST(EvaluateOptionsTest, JudgesHaveAScale) {
  const Words importing = {"--test", "t.csv", "--judge-import", "r.jsonl"};
  EXPECT_TRUE(parsed_evaluate(importing).judge_scale == JudgeScale());
  Words scaled = importing;
  scaled.insert(scaled.end(), {"--judge-scale", "0-100"});
  EXPECT_EQ(parsed_evaluate(scaled).judge_scale.high, 100);
  scaled.back() = "4-1";
  expect_parts(error_of(evaluate_words(scaled)), {"--judge-scale '4-1'", "LOW-HIGH"});
}

TEST(EvaluateOptionsTest, AnswersOfOneTokenAreNotSteeredByThemselves) {
  EXPECT_NO_THROW(parse_command_line(evaluate_words({"--mmlu", "d"})));
  expect_parts(error_of(evaluate_words({"--mmlu", "d", "--positions", "answer"})),
               {"--mmlu", "--positions answer"});
}

}  // namespace
}  // namespace bipo
