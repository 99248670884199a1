// Chooses and stores the day that chat templates print: the user's, the first day of the run, or a
// continued run's.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "datasets/text/template_date.hpp"

namespace bipo {

// Returns the day `stored` of a continued run unless the user gives another; a new run's day is the
// user's, else that of `created_utc` (ISO 8601).
TemplateDate choose_template_date(const std::optional<TemplateDate>& given,
                                  const std::optional<TemplateDate>& stored,
                                  const std::string& created_utc);

// Writes the settings `template_date` and `template_date_given`; "" for a template that prints no
// date.
void store_template_date(const std::optional<TemplateDate>& date, nlohmann::ordered_json& settings);

// Returns what store_template_date() wrote to a run's settings (a JSON text), or nothing if it
// wrote nothing or the text is unreadable.
std::optional<TemplateDate> stored_template_date(const std::string& settings);

// Returns the same from the settings that a sweep's cells share, in the text of its plan.
std::optional<TemplateDate> template_date_of_plan(const std::string& plan);

}  // namespace bipo
