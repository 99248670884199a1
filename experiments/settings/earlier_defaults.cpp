#include "experiments/settings/earlier_defaults.hpp"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "experiments/settings/field.hpp"

namespace bipo {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kRate = 5e-4;
constexpr LrUnit kUnit = LrUnit::kAbsolute;
constexpr std::int64_t kEpochs = 20;

bool holds(const Json& object, const char* key, const Json& value) {
  return object.is_object() && object.contains(key) && object[key] == value;
}

bool in_every_cell(const Json& plan, const char* key, const Json& value) {
  const Json cells = plan.value("cells", Json());
  return cells.is_array() && !cells.empty() &&
         std::all_of(cells.begin(), cells.end(),
                     [&](const Json& cell) { return holds(cell, key, value); });
}

void keep_unit(TrainingOptions& options, const Json& settings) {
  if (!options.given.contains("lr-unit") &&
      holds(settings, "lr_unit", names_of<LrUnit>().at(static_cast<std::size_t>(kUnit)))) {
    options.lr_unit = kUnit;
  }
}

}  // namespace

void keep_earlier_defaults(TrainOptions& options, const std::string& config) {
  const Json stored = Json::parse(config, nullptr, /*allow_exceptions=*/false);
  keep_unit(options, stored);
  if (!options.given.contains("lr") && holds(stored, "lr", kRate)) {
    options.lr = kRate;
  }
  if (!options.given.contains("epochs") && holds(stored, "epochs", kEpochs)) {
    options.epochs = kEpochs;
  }
}

void keep_earlier_defaults(SweepOptions& options, const std::string& plan) {
  const Json stored = Json::parse(plan, nullptr, /*allow_exceptions=*/false);
  if (!stored.is_object()) {
    return;
  }
  keep_unit(options, stored.value("settings", Json()));
  if (!options.given.contains("lrs") && in_every_cell(stored, "lr", kRate)) {
    options.axes.lrs = {kRate};
  }
  if (!options.given.contains("epochs") && in_every_cell(stored, "epochs", kEpochs)) {
    options.axes.epochs = {kEpochs};
  }
}

}  // namespace bipo
