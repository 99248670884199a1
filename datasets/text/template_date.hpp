// The day that a chat template prints as today's.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

namespace bipo {

using CalendarDate = std::chrono::year_month_day;

struct TemplateDate {
  CalendarDate day;
  // Chosen by the user.  Templates that take their date as a variable (date_string) then get it,
  // too; otherwise they print the one that is written in them.
  bool given = false;
};

// Of "2026-01-31", with a year from 1000 to 9999; nothing for any other text or for a day that no
// calendar has.
std::optional<CalendarDate> parse_iso_date(std::string_view text);

std::string iso_text(const CalendarDate& day);

// What Python's strftime(format) gives for midnight of `day` in the C locale.  Throws UserError
// naming a directive that is not implemented.
std::string format_date(const CalendarDate& day, std::string_view format);

}  // namespace bipo
