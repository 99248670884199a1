// The date that a chat template prints as today's.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

namespace bipo {

using CalendarDate = std::chrono::year_month_day;

struct TemplateDate {
  CalendarDate day;
  // Whether the user chose the date.  Only then do templates that take their date as a variable
  // (date_string) get it; otherwise they print the date that is written in them.
  bool given = false;
};

// Reads "2026-01-31", with a year from 1000 to 9999.  Returns nullopt for any other text and for a
// day that the calendar does not have.
std::optional<CalendarDate> parse_iso_date(std::string_view text);

std::string iso_text(const CalendarDate& day);

// Formats midnight of `day` as Python's strftime(format) does in the C locale.  Throws UserError
// naming a directive that is not implemented.
std::string format_date(const CalendarDate& day, std::string_view format);

}  // namespace bipo
