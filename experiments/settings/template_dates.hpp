// Which day chat templates print: the user's, that of a run's beginning, or a continued run's.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "datasets/text/template_date.hpp"

namespace bipo {

// Of a new run: the user's day, else the day of `created_utc` (ISO 8601).  What continues keeps the
// day `stored`, unless the user names another.
TemplateDate choose_template_date(const std::optional<TemplateDate>& given,
                                  const std::optional<TemplateDate>& stored,
                                  const std::string& created_utc);

// Writes the settings `template_date` and `template_date_given`; "" for a template that prints no
// date.
void store_template_date(const std::optional<TemplateDate>& date, nlohmann::ordered_json& settings);

// What store_template_date() wrote, of a run's settings (a JSON text); nothing where that is
// nothing or unreadable.
std::optional<TemplateDate> stored_template_date(const std::string& settings);

// The same of the settings that the cells of a sweep share, in the text of its plan.
std::optional<TemplateDate> template_date_of_plan(const std::string& plan);

}  // namespace bipo
