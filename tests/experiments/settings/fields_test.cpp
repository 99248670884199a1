// The settings of a training run, each against its stored key, a text and the value that the text
// stands for, written out by hand.
#include "experiments/settings/fields.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

using Json = nlohmann::ordered_json;
using Keys = std::set<std::string>;
using Rows = std::vector<std::pair<std::string, std::string>>;

using testing::error_of;

struct Example {
  const char* option;
  const char* key;
  const char* text;  // another value than the default
  Json stored;
};

// The stored settings of version 0.1.0 that options give.
const std::vector<Example>& examples() {
  static const std::vector<Example> all = {
      {"model", "model", "/a/../m", "/m"},
      {"adapter", "adapter", "/a/lora", "/a/lora"},
      {"train", "train", "/a/train.csv", "/a/train.csv"},
      {"test", "test", "/a/test.csv", "/a/test.csv"},
      {"layer", "layer", "5", 5},
      {"out", "out", "/a/run.h5", "/a/run.h5"},
      {"epochs", "epochs", "4", 4},
      {"max-steps", "max_steps", "12", 12},
      {"batch-size", "batch_size", "9", 9},
      {"micro-batch", "micro_batch", "2", 2},
      {"lr", "lr", "2.5e-1", 0.25},
      {"lr-unit", "lr_unit", "absolute", "absolute"},
      {"beta", "beta", "0.5", 0.5},
      {"weight-decay", "weight_decay", "0.125", 0.125},
      {"max-grad-norm", "max_grad_norm", "0", 0.0},
      {"warmup-steps", "warmup_steps", "7", 7},
      {"sign", "sign", "both", "both"},
      {"shuffle", "shuffle", "off", false},
      {"seed", "seed", "18446744073709551615", 18446744073709551615ULL},
      {"multipliers", "multipliers", "-2,0.5", Json::array({-2.0, 0.5})},
      {"eval-every", "eval_every", "0", 0},
      {"save-every", "save_every", "1.5", 1.5},
      {"dtype", "dtype", "bf16", "bf16"},
      {"device", "device", "cuda", "cuda"},
      {"tp", "tp", "2", 2},
      {"dp", "dp", "3", 3},
      {"threads", "threads", "4", 4},
      {"deterministic", "deterministic", "true", true},
      {"system-prompt", "system_prompt", "", ""},
      {"chat-template", "chat_template", "zephyr", "zephyr"},
      {"template-date", "template_date", "2020-02-29", "2020-02-29"},
      {"no-eos", "no_eos", "true", true},
      {"bos", "bos", "always", "always"},
      {"max-length", "max_length", "50", 50},
      {"skip-bad", "skip_bad", "true", true},
      {"cache-dtype", "cache_dtype", "bf16", "bf16"},
      {"cache-budget", "cache_budget", "3K", 3072},
      {"cache-dir", "cache_dir", "/a/cache", "/a/cache"},
  };
  return all;
}

// The settings that later versions added, and store where they are not the default.
const std::vector<Example>& later_examples() {
  static const std::vector<Example> all = {
      {"columns", "columns", "prompt=q", "prompt=q"},
      {"answer-pairs", "answer_pairs", "all", "all"},
      {"max-pairs", "max_pairs", "60", 60},
      {"max-test-pairs", "max_test_pairs", "20", 20},
      {"data-seed", "data_seed", "0", 0},
      {"select", "select", "best", "best"},
      {"patience", "patience", "3", 3},
      {"label-smoothing", "label_smoothing", "0.25", 0.25},
      {"reduction", "reduction", "mean", "mean"},
      {"factors", "factors", "0.5,2", Json::array({0.5, 2.0})},
      {"norm", "norm", "max:7%", "max:7%"},
      {"schedule", "schedule", "linear", "linear"},
      {"init", "init", "random:0.5", "random:0.5"},
      {"positions", "steered_positions", "first:2,last:1", "first:2,last:1"},
      {"steer-bos", "steer_bos", "off", false},
      {"site", "site", "mlp", "mlp"}};
  return all;
}

Field& named(std::vector<FieldGroup>& groups, const std::string& name) {
  for (FieldGroup& group : groups) {
    for (Field& field : group.fields) {
      if (field.name == name) {
        return field;
      }
    }
  }
  throw BugError("no field " + name);
}

TEST(TrainFields, StoreTheKeysOfEarlyVersions) {
  TrainOptions options;
  Keys keys;
  const Json stored = stored_settings(train_fields(options));
  for (const auto& [key, value] : stored.items()) {
    keys.insert(key);
  }
  Keys expected;
  for (const Example& example : examples()) {
    expected.insert(example.key);
  }
  EXPECT_EQ(keys, expected);
}

TEST(TrainFields, PlaceTheWorkByTheKeysOfEarlyVersions) {
  TrainOptions options;
  const std::vector<std::string> keys = placement_keys(train_fields(options));
  EXPECT_EQ(Keys(keys.begin(), keys.end()),
            (Keys{"model", "adapter", "train", "test", "out", "dp", "threads", "save_every",
                  "cache_budget", "cache_dir", "columns", "answer_pairs", "max_pairs",
                  "max_test_pairs", "data_seed"}));
}

TEST(TrainFields, ATextChangesItsKeyAlone) {
  for (const Example& example : examples()) {
    TrainOptions options;
    auto groups = train_fields(options);
    const Json before = stored_settings(groups);
    named(groups, example.option).set(example.text);
    Json expected = before;
    expected[example.key] = example.stored;
    EXPECT_NE(expected, before) << example.option;
    EXPECT_EQ(stored_settings(groups), expected) << example.option;
  }
}

TEST(TrainFields, OptionsWithoutAPlaceInFilesChangeNone) {
  TrainOptions options;
  auto groups = train_fields(options);
  const Json before = stored_settings(groups);
  for (const char* option : {"check-weights", "resume", "overwrite", "dry-run", "no-bos"}) {
    named(groups, option).set("true");
  }
  EXPECT_TRUE(options.check_weights && options.resume && options.overwrite && options.dry_run);
  EXPECT_EQ(stored_settings(groups), before);
}

TEST(TrainFields, ARefusedTextChangesNothing) {
  TrainOptions options;
  auto groups = train_fields(options);
  const Json before = stored_settings(groups);
  const auto rule = [&](const char* option, const char* text) {
    return error_of<UserError>([&] { named(groups, option).set(text); });
  };
  EXPECT_EQ(rule("lr", "0"), "must be a finite number above 0");
  EXPECT_EQ(rule("micro-batch", "0"), "must be a whole number, 1 or above, or auto");
  EXPECT_EQ(rule("sign", "odd"), "must be one of batch, pair, both, plus, minus");
  EXPECT_EQ(rule("shuffle", "true"), "must be one of on, off");
  EXPECT_EQ(rule("model", ""), "must name a path");
  testing::expect_parts(rule("columns", "promt=x"), {"'promt=x'", "NAME=COLUMN", "prompt, chosen"});
  EXPECT_EQ(rule("columns", "prompt=x,prompt=y"), "'prompt' is given twice");
  EXPECT_EQ(stored_settings(groups), before);
}

TEST(TrainFields, AutoTakesAValueBack) {
  TrainOptions options;
  auto groups = train_fields(options);
  const Json before = stored_settings(groups);
  for (const auto& [option, text] :
       std::vector<std::pair<const char*, const char*>>{{"micro-batch", "2"},
                                                        {"dp", "3"},
                                                        {"threads", "4"},
                                                        {"cache-budget", "3K"},
                                                        {"dtype", "bf16"},
                                                        {"device", "cpu"},
                                                        {"cache-dtype", "bf16"}}) {
    named(groups, option).set(text);
    EXPECT_NE(stored_settings(groups), before) << option;
    named(groups, option).set("auto");
    EXPECT_EQ(stored_settings(groups), before) << option;
  }
}

// BiPO's own form is stored as by versions that had no other.
TEST(TrainFields, AnotherObjectiveIsStoredWithAllThatItUses) {
  TrainOptions options;
  auto groups = train_fields(options);
  const Json usual = stored_settings(groups);
  named(groups, "reduction").set("sum");
  EXPECT_EQ(stored_settings(groups), usual) << "the objective's own";
  named(groups, "reduction").set("auto");
  named(groups, "objective").set("ipo");
  Json expected = usual;
  expected["objective"] = "ipo";
  expected["reduction"] = "mean";
  EXPECT_EQ(nlohmann::json(stored_settings(groups)), nlohmann::json(expected));
  named(groups, "objective").set("simpo");
  expected["objective"] = "simpo";
  expected["simpo_gamma"] = 0.5;
  EXPECT_EQ(nlohmann::json(stored_settings(groups)), nlohmann::json(expected));
  EXPECT_EQ(named(groups, "reduction").text(), "mean");
}

TEST(TrainFields, ALearnedFactorIsStoredWithItsRateAndStart) {
  TrainOptions options;
  auto groups = train_fields(options);
  Json expected = stored_settings(groups);
  named(groups, "factor-lr").set("0.5");
  EXPECT_EQ(stored_settings(groups), expected) << "no factor is learned";
  EXPECT_EQ(named(groups, "factor-lr").text(), "(learned factors only)");
  named(groups, "factors").set("learned");
  expected["factors"] = "learned";
  expected["factor_lr"] = 0.5;
  expected["factor_init"] = 1.0;
  EXPECT_EQ(nlohmann::json(stored_settings(groups)), nlohmann::json(expected));
  EXPECT_EQ(named(groups, "factor-lr").text(), "0.5");
}

TEST(TrainFields, HelpShowsTheValuesOfTheStructAsDefaults) {
  TrainOptions options;
  options.epochs = 123;
  options.lr = 0.375;
  options.sign = SignRule::kMinus;
  options.shuffle = false;
  options.multipliers = {4, -0.5};
  options.max_grad_norm = 2.5;
  options.seed = 987654321;
  options.save_every = 61.5;
  options.system_prompt = "Short.";
  auto groups = train_fields(options);
  const std::vector<std::pair<const char*, const char*>> shown = {
      {"epochs", "(default 123)"},
      {"lr", "(default 0.375)"},
      {"sign", "(default minus)"},
      {"shuffle", "(default off)"},
      {"multipliers", "(default 4,-0.5)"},
      {"max-grad-norm", "; 0: no clipping (default 2.5)"},
      {"seed", "(default 987654321)"},
      {"save-every", "(default 61.5)"},
      {"system-prompt", "(default \"Short.\")"}};
  for (const auto& [option, ending] : shown) {
    const std::string help = named(groups, option).help();
    EXPECT_TRUE(help.ends_with(ending)) << help;
  }
}

// But for defaults that no text of the option stands for.
TEST(TrainFields, TheDefaultThatHelpShowsGivesTheStructsValue) {
  const Keys in_words = {"adapter",   "test",          "micro-batch",   "dp",
                         "threads",   "system-prompt", "template-date", "template-arg",
                         "cache-dir", "columns",       "data-seed",     "continue-from",
                         "warmup",    "warmup-steps",  "reduction"};
  TrainOptions options;
  auto groups = train_fields(options);
  const Json before = stored_settings(groups);
  int checked = 0;
  for (const FieldGroup& group : groups) {
    for (const Field& field : group.fields) {
      if (!field.is_required && !field.fallback.empty() && !in_words.contains(field.name)) {
        field.set(field.fallback);
        EXPECT_EQ(stored_settings(groups), before) << field.name;
        ++checked;
      }
    }
  }
  EXPECT_EQ(checked, 50);
}

// Files are those of versions without these settings where they are not used.
TEST(TrainFields, LaterSettingsAreStoredWhereTheyAreUsed) {
  TrainOptions options;
  auto groups = train_fields(options);
  const Json before = stored_settings(groups);
  for (const Example& example : later_examples()) {
    EXPECT_FALSE(before.contains(example.key)) << example.key;
    named(groups, example.option).set(example.text);
    EXPECT_EQ(stored_settings(groups)[example.key], example.stored) << example.key;
  }
}

// What resume compares where a file has a setting that is now the default again.
TEST(TrainFields, TheKeyOfPositionsIsTheStoredOne) {
  TrainOptions options;
  const std::vector<std::string> keys = omissible_keys(train_fields(options));
  EXPECT_EQ(std::count(keys.begin(), keys.end(), "steered_positions"), 1);
  EXPECT_EQ(std::count(keys.begin(), keys.end(), "positions"), 0);
}

TEST(ExtractFields, ALengthIsThatOfADirection) {
  ExtractOptions options;
  auto groups = extract_fields(options);
  EXPECT_EQ(named(groups, "norm").text(), "as found");
  EXPECT_TRUE(stored_settings(groups).contains("norm"));
  named(groups, "match-norm").set("run.h5");
  EXPECT_EQ(named(groups, "norm").text(), "that of --match-norm");
  named(groups, "norm").set("2.5");
  EXPECT_EQ(named(groups, "norm").text(), "2.5");
  named(groups, "method").set("conceptor");
  for (const char* name : {"norm", "match-norm"}) {
    EXPECT_EQ(named(groups, name).text(), "not used");
    EXPECT_FALSE(stored_settings(groups).contains(named(groups, name).key()));
  }
  EXPECT_EQ(named(groups, "aperture").text(), "10");
}

TEST(Gate, IsAFileAndAThreshold) {
  const GateChoice gate = parse_gate("no/such/run.h5:epoch=2:-1.5");
  EXPECT_EQ(gate.vector.file, "no/such/run.h5");
  EXPECT_EQ(to_string(gate.vector.selection), "epoch=2");
  EXPECT_EQ(gate.threshold, -1.5);
  for (const char* text : {"run.h5", "run.h5:", "run.h5:x", ":1", "run.h5:inf", "run.h5@2:1", ""}) {
    EXPECT_THROW(parse_gate(text), UserError) << text;
  }
}

TEST(TrainFields, OnlyModelDataLayerAndOutAreRequired) {
  TrainOptions options;
  Keys required;
  for (const FieldGroup& group : train_fields(options)) {
    for (const Field& field : group.fields) {
      if (field.is_required) {
        required.insert(field.name);
        EXPECT_TRUE(field.help().ends_with(" (required)")) << field.help();
      }
    }
  }
  EXPECT_EQ(required, (Keys{"model", "train", "layer", "out"}));
}

TEST(SettingsTable, ShowsEveryStoredSettingOnce) {
  TrainOptions options;
  std::multiset<std::string> shown;
  for (const SettingGroup& group : settings_table(train_fields(options), {})) {
    for (const auto& [name, value] : group.settings) {
      shown.insert(name);
      EXPECT_NE(value, "") << name;
    }
  }
  std::multiset<std::string> expected;
  for (const auto* all : {&examples(), &later_examples()}) {
    for (const Example& example : *all) {
      expected.insert(example.option);
    }
  }
  // Which files omit by default, without an example above.
  expected.insert(
      {"template-arg", "train-turns", "objective", "simpo-gamma", "factor-lr", "factor-init"});
  EXPECT_EQ(shown, expected);
}

TEST(SettingsTable, ShowsWhatZeroMeansAndWhatNotesAdd) {
  EvaluateOptions unused;
  TrainingOptions options;
  options.eval_every = 0;
  options.multipliers = {-1, 0.5};
  options.save_every = 0;  // has no such meaning
  std::vector<FieldGroup> groups = {
      evaluation_and_saving_group(options),
      {"Steps", {max_steps_field(options.max_steps), overwrite_field(unused.overwrite)}},
      {"Nothing stored", {check_weights_field(options.check_weights)}}};
  SettingNotes notes;
  notes.behind["multipliers"] = "two";
  notes.behind["max-steps"] = "as wished";
  notes.behind["overwrite"] = "never shown";
  notes.rows["Steps"] = {{"AdamW", "betas"}};
  const std::vector<SettingGroup> table = settings_table(groups, notes);
  ASSERT_EQ(table.size(), 2U);
  EXPECT_EQ(table[0].title, "Evaluation and saving");
  EXPECT_EQ(table[0].settings, (Rows{{"multipliers", "-1,0.5 (two)"},
                                     {"eval-every", "never"},
                                     {"select", "last"},
                                     {"save-every", "0"}}));
  EXPECT_EQ(table[1].title, "Steps");
  EXPECT_EQ(table[1].settings, (Rows{{"max-steps", "no limit (as wished)"}, {"AdamW", "betas"}}));
}

TEST(SettingsTable, ShowsValuesAsAPersonReadsThem) {
  TrainOptions options;
  options.model = "models/m";
  options.deterministic = true;
  options.shuffle = false;
  options.template_date = TemplateDate{parse_iso_date("2020-02-29").value(), true};
  std::map<std::string, std::string> shown;
  for (const SettingGroup& group : settings_table(train_fields(options), {})) {
    shown.insert(group.settings.begin(), group.settings.end());
  }
  EXPECT_EQ(shown["model"], "models/m");
  EXPECT_EQ(shown["adapter"], "(none)");
  EXPECT_EQ(shown["micro-batch"], "auto");
  EXPECT_EQ(shown["deterministic"], "yes");
  EXPECT_EQ(shown["no-eos"], "no");
  EXPECT_EQ(shown["shuffle"], "off");
  EXPECT_EQ(shown["template-date"], "2020-02-29");
  EXPECT_EQ(shown["max-length"], "the model's context");
  EXPECT_EQ(shown["lr"], "0.003");
}

class VectorChoiceTest : public ::testing::Test {
 protected:
  VectorChoiceTest()
      : directory_(fs::path(::testing::TempDir()) /
                   ("vector_choice_test_" + std::to_string(getpid()))) {
    fs::create_directory(directory_);
  }
  ~VectorChoiceTest() override { fs::remove_all(directory_); }

  std::string make(const std::string& name) const {
    const fs::path path = directory_ / name;
    std::ofstream(path) << "x";
    return path.string();
  }

 private:
  fs::path directory_;
};

// What a text is understood as: file, selection, weight.
using Understood = std::tuple<std::string, std::string, double>;

Understood understood(const std::string& text) {
  const VectorChoice choice = parse_vector_choice(text);
  return {choice.file.string(), to_string(choice.selection), choice.weight};
}

TEST_F(VectorChoiceTest, EndingsChooseAnEpochAndAWeight) {
  for (const std::string& file : {make("run.h5"), std::string("no/such/run.h5")}) {
    EXPECT_EQ(understood(file), Understood(file, "", 1));
    EXPECT_EQ(understood(file + "@0.5"), Understood(file, "", 0.5));
    EXPECT_EQ(understood(file + "@-2e-1"), Understood(file, "", -0.2));
    EXPECT_EQ(understood(file + ":best"), Understood(file, "best", 1));
    EXPECT_EQ(understood(file + ":last"), Understood(file, "last", 1));
    EXPECT_EQ(understood(file + ":epoch=12"), Understood(file, "epoch=12", 1));
    EXPECT_EQ(understood(file + ":best@0.5"), Understood(file, "best", 0.5));
    const VectorChoice choice = parse_vector_choice(file + ":epoch=12@0.5");
    EXPECT_EQ(choice_text(choice, file), file + ":epoch=12@0.5");
  }
}

TEST_F(VectorChoiceTest, AFileOfTheLongerNameIsMeant) {
  const std::string file = make("run.h5");
  const std::string weighted = make("run.h5@0.5");
  const std::string selected = make("run.h5:best");
  const std::string both = make("run.h5:epoch=3@2");
  EXPECT_EQ(understood(weighted), Understood(weighted, "", 1));
  EXPECT_EQ(understood(weighted + ":best"), Understood(weighted, "best", 1));
  EXPECT_EQ(understood(selected), Understood(selected, "", 1));
  EXPECT_EQ(understood(selected + "@0.5"), Understood(selected, "", 0.5));
  EXPECT_EQ(understood(both), Understood(both, "", 1));
  EXPECT_EQ(understood(file + ":last"), Understood(file, "last", 1));
}

TEST_F(VectorChoiceTest, OtherEndingsBelongToTheName) {
  EXPECT_EQ(understood("a@b.h5"), Understood("a@b.h5", "", 1));
  EXPECT_EQ(understood("a:b.h5"), Understood("a:b.h5", "", 1));
  EXPECT_EQ(understood("run.h5@inf"), Understood("run.h5@inf", "", 1));
}

TEST_F(VectorChoiceTest, WhatIsWrongIsSaid) {
  const std::string file = make("run.h5");
  const auto rule = [](const std::string& text) {
    return error_of<UserError>([&] { parse_vector_choice(text); });
  };
  testing::expect_parts(rule(file + ":bset"), {"best, last and epoch=N", "'bset'"});
  testing::expect_parts(rule("run.h5:epoch=0"), {"counted from 1", "'epoch=0'"});
  testing::expect_parts(rule("run.h5:epoch=two"), {"'epoch=two'"});
  testing::expect_parts(rule(""), {"must name a run file"});
  testing::expect_parts(rule("@0.5"), {"must name a run file"});
}

}  // namespace
}  // namespace bipo
