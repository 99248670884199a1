#include "experiments/settings/template_dates.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

using nlohmann::json;

constexpr const char* kDate = "template_date";
constexpr const char* kGiven = "template_date_given";

std::optional<TemplateDate> date_in(const json& settings) {
  if (!settings.is_object() || !settings.contains(kDate) || !settings[kDate].is_string()) {
    return std::nullopt;
  }
  const auto day = parse_iso_date(settings[kDate].get_ref<const std::string&>());
  if (!day) {
    return std::nullopt;
  }
  return TemplateDate{*day, settings.value(kGiven, json()) == json(true)};
}

json parse(const std::string& text) {
  return json::parse(text, nullptr, /*allow_exceptions=*/false);
}

}  // namespace

TemplateDate choose_template_date(const std::optional<TemplateDate>& given,
                                  const std::optional<TemplateDate>& stored,
                                  const std::string& created_utc) {
  if (stored && (!given || given->day == stored->day)) {
    return *stored;
  }
  if (given) {
    return *given;
  }
  const auto today = parse_iso_date(created_utc.substr(0, created_utc.find('T')));
  if (!today) {
    throw BugError(fmt::format("'{}' does not begin with a date", created_utc));
  }
  return {*today, false};
}

void store_template_date(const std::optional<TemplateDate>& date,
                         nlohmann::ordered_json& settings) {
  settings[kDate] = date ? iso_text(date->day) : "";
  settings[kGiven] = date && date->given;
}

std::optional<TemplateDate> stored_template_date(const std::string& settings) {
  return date_in(parse(settings));
}

std::optional<TemplateDate> template_date_of_plan(const std::string& plan) {
  const json stored = parse(plan);
  if (!stored.is_object() || !stored.contains("settings") || !stored["settings"].is_object()) {
    return std::nullopt;
  }
  const json& common = stored["settings"];
  if (auto date = date_in(common)) {
    return date;
  }
  // Where some models' templates print no date, each model has these settings of its own.
  const json inputs = common.value("inputs", json::array());
  for (const json& of_inputs : inputs) {
    if (!of_inputs.is_object()) {
      continue;
    }
    json merged = common;
    merged.update(of_inputs);
    if (auto date = date_in(merged)) {
      return date;
    }
  }
  return std::nullopt;
}

}  // namespace bipo
