// Which differences of settings keep a run from being continued, against a config that an early
// version wrote.
#include "experiments/settings/stored_settings.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "experiments/runs/setting_label.hpp"
#include "experiments/settings/earlier_defaults.hpp"
#include "experiments/settings/fields.hpp"
#include "experiments/settings/template_dates.hpp"
#include "experiments/settings/warmup.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

using Json = nlohmann::ordered_json;

using testing::error_of;
using testing::expect_parts;

// Version 0.1.0 wrote these keys in this order.
constexpr const char* kOldConfig =
    R"({"model":"/models/tiny","adapter":"","model_fingerprint":"00000000000000aa",)"
    R"("train":"/data/train.csv","train_pairs":4,"train_tokens_hash":"00000000000000bb",)"
    R"("test":"/data/test.csv","test_pairs":2,"test_tokens_hash":"00000000000000cc",)"
    R"("layer":1,"out":"/runs/run.h5","epochs":3,"max_steps":0,"batch_size":4,"micro_batch":2,)"
    R"("lr":0.0005,"lr_unit":"absolute","beta":0.1,"weight_decay":0.0,"max_grad_norm":1.0,)"
    R"("warmup_steps":100,"sign":"batch","shuffle":true,"seed":11,"multipliers":[-1.0,0.0,1.0],)"
    R"("eval_every":1,"save_every":30.0,"dtype":"fp32","device":"cpu","world_size":2,"tp":1,)"
    R"("dp":2,"threads":1,"deterministic":false,"system_prompt":"Be brief.",)"
    R"("chat_template":"chatml","template_date":"2026-01-02","template_date_given":false,)"
    R"("no_eos":false,"no_bos":false,"max_length":64,"skip_bad":false,"cache_dtype":"fp32",)"
    R"("cache_budget":1048576,"cache_dir":""})";

// The same settings, each stored as the fields of today store it.
Json todays_config() {
  TrainOptions o;
  o.model = "/models/tiny";
  o.train = "/data/train.csv";
  o.test = "/data/test.csv";
  o.layer = 1;
  o.out = "/runs/run.h5";
  o.epochs = 3;
  o.micro_batch = 2;
  o.dtype = Dtype::kFp32;
  o.device = DeviceKind::kCpu;
  o.dp = 2;
  o.threads = 1;
  o.system_prompt = "Be brief.";
  o.bos = continued_bos_rule(BosRule::kAuto, kOldConfig);
  o.chat_template = "chatml";
  o.template_date = TemplateDate{parse_iso_date("2026-01-02").value(), /*given=*/false};
  o.max_length = 64;
  o.cache_dtype = Dtype::kFp32;
  o.cache_budget = 1048576;
  o.warmup_steps = continued_warmup_steps(o, kOldConfig);
  keep_earlier_defaults(o, kOldConfig);
  Json json = stored_settings(train_fields(o));
  json["model_fingerprint"] = "00000000000000aa";
  json["train_pairs"] = 4;
  json["train_tokens_hash"] = "00000000000000bb";
  json["test_pairs"] = 2;
  json["test_tokens_hash"] = "00000000000000cc";
  json["world_size"] = 2;
  store_template_date(o.template_date, json);
  return json;
}

// Another value of the same kind.
Json changed(const Json& value) {
  if (value.is_boolean()) {
    return !value.get<bool>();
  }
  if (value.is_number()) {
    return value.get<double>() + 7;
  }
  return value.is_string() ? Json("other") : Json::array({5.5});
}

// An option's name, or what the setting tells of.
std::string label_of(std::string key) {
  if (key == "model_fingerprint") {
    return "the model: " + key;
  }
  if (key == "train_pairs" || key == "train_tokens_hash") {
    return "the pairs of --train: " + key;
  }
  if (key == "test_pairs" || key == "test_tokens_hash") {
    return "the pairs of --test: " + key;
  }
  if (key == "template_date_given") {
    return "whether --template-date is given: " + key;
  }
  std::replace(key.begin(), key.end(), '_', '-');
  return "--" + key;
}

const std::vector<std::string> kPlacement = {"model",        "adapter",   "train",     "test",
                                             "out",          "dp",        "threads",   "save_every",
                                             "cache_budget", "cache_dir", "world_size"};

TEST(StoredSettings, AConfigOfAnEarlyVersionCountsAsTheSame) {
  EXPECT_NO_THROW(check_same_settings(kOldConfig, todays_config().dump(), "run.h5"));
  EXPECT_EQ(harmless_differences(kOldConfig, todays_config().dump()), std::vector<std::string>{});
  // By value: each key of one is a key of the other.
  EXPECT_EQ(nlohmann::json::parse(kOldConfig), nlohmann::json::parse(todays_config().dump()));
}

// Settings that early versions did not have are stored where they are not the default, so that old
// runs go on with it alone.
TEST(StoredSettings, LaterSettingsAreComparedInBothDirections) {
  TrainOptions o;
  o.template_args.values = {{"enable_thinking", false}, {"effort", "low"}};
  o.train_turns = TrainTurns::kAll;
  const Json chosen = stored_settings(train_fields(o));
  EXPECT_EQ(chosen["template_arg"], (Json{{"effort", "low"}, {"enable_thinking", false}}));
  EXPECT_EQ(chosen["train_turns"], "all");
  Json now = todays_config();
  now["template_arg"] = chosen["template_arg"];
  now["train_turns"] = "all";
  const auto compare = [](const Json& before, const Json& after) {
    return error_of<UserError>([&] { check_same_settings(before.dump(), after.dump(), "run.h5"); });
  };
  EXPECT_NO_THROW(check_same_settings(now.dump(), now.dump(), "run.h5"));
  expect_parts(compare(Json::parse(kOldConfig), now),
               {"--template-arg was not set, now", "--train-turns was not set, now \"all\""});
  expect_parts(compare(now, todays_config()),
               {"--template-arg was", "--train-turns was \"all\", now the default"});
}

// Sweeps compare these texts, whatever order a version writes the keys in.
TEST(StoredSettings, TheTextOfWhatShapesResultsDoesNotDependOnTheOrderOfKeys) {
  EXPECT_EQ(nlohmann::json::parse(result_settings(kOldConfig)),
            nlohmann::json::parse(result_settings(todays_config().dump())));
  EXPECT_EQ(result_settings(kOldConfig), result_settings(todays_config().dump()));
}

TEST(StoredSettings, EachChangedSettingIsEitherPlacementOrRefusedByNameWithBothValues) {
  const Json old = Json::parse(kOldConfig);
  for (const auto& [name, value] : old.items()) {
    Json now = old;
    now[name] = changed(value);
    const bool is_placement =
        std::find(kPlacement.begin(), kPlacement.end(), name) != kPlacement.end();
    EXPECT_EQ(result_settings(now.dump()) == result_settings(kOldConfig), is_placement) << name;
    if (is_placement) {
      EXPECT_NO_THROW(check_same_settings(kOldConfig, now.dump(), "run.h5")) << name;
      continue;
    }
    const std::string difference =
        label_of(name) + " was " + value.dump() + ", now " + now[name].dump();
    EXPECT_EQ(error_of<UserError>([&] { check_same_settings(kOldConfig, now.dump(), "run.h5"); }),
              "--resume: run.h5 was made with other settings (" + difference +
                  "); use the same ones, or another --out, or --overwrite");
  }
}

TEST(StoredSettings, AllDifferencesAreListed) {
  Json now = Json::parse(kOldConfig);
  now["lr"] = 0.25;
  now["sign"] = "both";
  now["threads"] = 8;
  expect_parts(error_of<UserError>([&] { check_same_settings(kOldConfig, now.dump(), "run.h5"); }),
               {"(--lr was 0.0005, now 0.25; --sign was \"batch\", now \"both\")"});
}

TEST(StoredSettings, ASettingThatTheFileDoesNotHaveDiffers) {
  Json now = Json::parse(kOldConfig);
  now["momentum"] = 0.5;
  expect_parts(error_of<UserError>([&] { check_same_settings(kOldConfig, now.dump(), "run.h5"); }),
               {"--momentum was not set, now 0.5"});
}

TEST(StoredSettings, SettingsAreNamedAsTheirOptions) {
  TrainOptions o;
  for (const FieldGroup& group : train_fields(o)) {
    for (const Field& field : group.fields) {
      const std::string key = field.stored_key ? field.stored_key() : field.key();
      EXPECT_EQ(setting_label(key), "--" + field.name);
    }
  }
}

TEST(StoredSettings, WhatFollowsFromTheSiteIsNoDifferenceOfItsOwn) {
  Json now = Json::parse(kOldConfig);
  now["site"] = "mlp";
  now["block_output_factor"] = 0.5;
  expect_parts(error_of<UserError>([&] { check_same_settings(kOldConfig, now.dump(), "run.h5"); }),
               {"(--site was not set, now \"mlp\")"});
  EXPECT_FALSE(have_same_results(kOldConfig, now.dump()));
}

TEST(StoredSettings, WeightsAreComparedWhereBothSayWhich) {
  Json now = Json::parse(kOldConfig);
  now["weights_hash"] = "00000000000000ab";
  EXPECT_NO_THROW(check_same_settings(kOldConfig, now.dump(), "run.h5"));
  EXPECT_TRUE(have_same_results(kOldConfig, now.dump()));
  EXPECT_TRUE(have_same_results(now.dump(), kOldConfig));
  const std::vector<std::string> warnings = harmless_differences(kOldConfig, now.dump());
  ASSERT_EQ(warnings.size(), 1U);
  expect_parts(warnings[0], {"earlier version", "whole weights could not be compared"});

  Json other = now;
  other["weights_hash"] = "00000000000000ac";
  EXPECT_EQ(harmless_differences(now.dump(), other.dump()), std::vector<std::string>{});
  EXPECT_TRUE(have_same_results(now.dump(), now.dump()));
  EXPECT_FALSE(have_same_results(now.dump(), other.dump()));
  expect_parts(
      error_of<UserError>([&] { check_same_settings(now.dump(), other.dump(), "run.h5"); }),
      {R"((the model's weights: weights_hash was "00000000000000ab", now "00000000000000ac")"});
  now["lr"] = 0.25;
  EXPECT_FALSE(have_same_results(kOldConfig, now.dump()));
}

TEST(StoredSettings, AConfigThatIsNoObjectIsRefused) {
  for (const char* stored : {"", "[]", "3", "{\"lr\":"}) {
    expect_parts(error_of<UserError>([&] { check_same_settings(stored, kOldConfig, "run.h5"); }),
                 {"run.h5", "not a JSON object"});
  }
}

TEST(StoredSettings, ThreadsMayDifferWithAWarning) {
  Json now = Json::parse(kOldConfig);
  now["threads"] = 8;
  now["dp"] = 1;
  const std::vector<std::string> warnings = harmless_differences(kOldConfig, now.dump());
  ASSERT_EQ(warnings.size(), 1U);
  expect_parts(warnings[0], {"threads per rank were 1, now 8", "last bits"});
}

TEST(StoredSettings, AnIntegerIsReadByNameOrMissed) {
  EXPECT_EQ(stored_integer(kOldConfig, "micro_batch"), 2);
  for (const auto& [config, name] :
       std::vector<std::pair<std::string, std::string>>{{kOldConfig, "lr"},
                                                        {kOldConfig, "sign"},
                                                        {kOldConfig, "batch"},
                                                        {"[]", "micro_batch"},
                                                        {"", "micro_batch"}}) {
    expect_parts(error_of<UserError>([&] { stored_integer(config, name); }),
                 {"no integer \"" + name + "\""});
  }
}

TEST(StoredSettings, TextIsUtf8AlsoWhereAPathIsNot) {
  EXPECT_EQ(settings_text({{"model",
                            "gr\xc3\xb6\xc3\x9f"
                            "e"},
                           {"out",
                            "a\xff"
                            "b"}}),
            "{\"model\":\"gr\xc3\xb6\xc3\x9f"
            "e\",\"out\":\"a\xef\xbf\xbd"
            "b\"}");
}

}  // namespace
}  // namespace bipo
