#include "experiments/settings/stored_settings.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "collectives/foundation/errors.hpp"
#include "experiments/runs/setting_label.hpp"
#include "experiments/settings/fields.hpp"

namespace bipo {
namespace {

using Json = nlohmann::ordered_json;

// The number of ranks is not a setting: it follows from how the job is started.
bool is_placement(const std::string& key) {
  static const std::vector<std::string> keys = [] {
    TrainOptions options;
    return placement_keys(train_fields(options));
  }();
  return key == "world_size" || std::find(keys.begin(), keys.end(), key) != keys.end();
}

BosRule continued_rule(BosRule given, const Json& settings) {
  if (!settings.is_object() || !settings.contains("no_bos")) {
    return given;
  }
  switch (given) {
    case BosRule::kAuto:
      return BosRule::kEarlier;
    case BosRule::kNever:
      return BosRule::kEarlierNever;
    default:
      return given;
  }
}

}  // namespace

BosRule continued_bos_rule(BosRule given, const std::string& config) {
  return continued_rule(given, Json::parse(config, nullptr, /*allow_exceptions=*/false));
}

BosRule continued_bos_rule_of_plan(BosRule given, const std::string& plan) {
  const Json stored = Json::parse(plan, nullptr, /*allow_exceptions=*/false);
  return stored.is_object() ? continued_rule(given, stored.value("settings", Json())) : given;
}

std::string settings_text(const Json& settings) {
  return settings.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

std::int64_t stored_integer(const std::string& config, const std::string& name) {
  const Json json = Json::parse(config, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains(name) || !json[name].is_number_integer()) {
    throw UserError(fmt::format("the run file's config has no integer \"{}\"", name));
  }
  return json[name].get<std::int64_t>();
}

std::string result_settings(const std::string& config) {
  const Json all = Json::parse(config);
  auto shaping = nlohmann::json::object();  // sorted: versions store settings in different orders
  for (const auto& [name, value] : all.items()) {
    if (!is_placement(name)) {
      shaping[name] = value;
    }
  }
  return shaping.dump();
}

bool have_same_results(const std::string& config, const std::string& other) {
  Json one = Json::parse(config);
  Json two = Json::parse(other);
  if (!one.contains(kWeightsHashKey) || !two.contains(kWeightsHashKey)) {
    one.erase(kWeightsHashKey);
    two.erase(kWeightsHashKey);
  }
  return result_settings(one.dump()) == result_settings(two.dump());
}

void check_same_settings(const std::string& stored, const std::string& now,
                         const std::string& file) {
  const Json before = Json::parse(stored, nullptr, /*allow_exceptions=*/false);
  const Json after = Json::parse(now);
  if (!before.is_object()) {
    throw UserError(fmt::format(
        "{}: its config is not a JSON object; it was not written by this program", file));
  }
  std::vector<std::string> differences;
  for (const auto& [name, value] : after.items()) {
    const Json old = before.value(name, Json());
    if (name == kWeightsHashKey && !before.contains(name)) {
      continue;  // harmless_differences() tells of it
    }
    if (name == kBlockOutputFactorKey) {
      continue;  // follows from the site and the model
    }
    if (!is_placement(name) && old != value) {
      differences.push_back(fmt::format("{} was {}, now {}", setting_label(name),
                                        before.contains(name) ? old.dump() : "not set",
                                        value.dump()));
    }
  }
  TrainOptions options;
  for (const std::string& name : omissible_keys(train_fields(options))) {
    if (!is_placement(name) && before.contains(name) && !after.contains(name)) {
      differences.push_back(
          fmt::format("{} was {}, now the default", setting_label(name), before[name].dump()));
    }
  }
  if (!differences.empty()) {
    throw UserError(fmt::format(
        "--resume: {} was made with other settings ({}); use the same ones, or another --out, or "
        "--overwrite",
        file, fmt::join(differences, "; ")));
  }
}

std::vector<std::string> harmless_differences(const std::string& stored, const std::string& now) {
  const Json before = Json::parse(stored, nullptr, /*allow_exceptions=*/false);
  const Json after = Json::parse(now);
  std::vector<std::string> warnings;
  if (before.value("threads", Json()) != after["threads"]) {
    warnings.push_back(fmt::format(
        "threads per rank were {}, now {}: the result may differ in its last bits from an "
        "uninterrupted run's",
        before.value("threads", Json()).dump(), after["threads"].dump()));
  }
  if (!before.contains(kWeightsHashKey) && after.contains(kWeightsHashKey)) {
    warnings.emplace_back(
        "the run was begun by an earlier version, which stored samples of the weights only: these "
        "are the same, but the whole weights could not be compared");
  }
  return warnings;
}

}  // namespace bipo
