#include "experiments/settings/warmup.hpp"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <variant>

#include "experiments/settings/field.hpp"

namespace bipo {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kDefaultShare = 0.1;
constexpr std::int64_t kEarlierDefault = 100;  // steps

std::int64_t share_of(double share, std::int64_t total_steps) {
  // A decimal share of a whole number is off by the rounding of doubles, which must add no step.
  constexpr double kRounding = 1e-9;
  return static_cast<std::int64_t>(
      std::ceil(share * static_cast<double>(total_steps) * (1 - kRounding)));
}

std::int64_t wanted_steps(const std::optional<Warmup>& warmup, std::int64_t total_steps) {
  if (!warmup) {
    return share_of(kDefaultShare, total_steps);
  }
  const auto* share = std::get_if<double>(&*warmup);
  return share != nullptr ? share_of(*share, total_steps) : std::get<std::int64_t>(*warmup);
}

std::optional<std::int64_t> continued(const TrainingOptions& given, const Json& settings) {
  const bool is_default = !given.warmup && !given.warmup_steps;
  return is_default && settings.is_object() &&
                 settings.value("warmup_steps", Json()) == kEarlierDefault
             ? kEarlierDefault
             : given.warmup_steps;
}

}  // namespace

std::int64_t warmup_steps(const TrainingOptions& options, std::int64_t total_steps) {
  if (!options.warmup && options.warmup_steps) {
    return *options.warmup_steps;
  }
  return std::clamp<std::int64_t>(wanted_steps(options.warmup, total_steps), 0, total_steps - 1);
}

std::optional<std::int64_t> continued_warmup_steps(const TrainingOptions& given,
                                                   const std::string& config) {
  return continued(given, Json::parse(config, nullptr, /*allow_exceptions=*/false));
}

std::optional<std::int64_t> continued_warmup_steps_of_plan(const TrainingOptions& given,
                                                           const std::string& plan) {
  const Json stored = Json::parse(plan, nullptr, /*allow_exceptions=*/false);
  return stored.is_object() ? continued(given, stored.value("settings", Json()))
                            : given.warmup_steps;
}

Json planned_warmup(const TrainingOptions& options) {
  if (!options.warmup && options.warmup_steps) {
    return stored_value(options.warmup_steps);
  }
  return shown_value(options.warmup.value_or(Warmup(kDefaultShare)));
}

}  // namespace bipo
