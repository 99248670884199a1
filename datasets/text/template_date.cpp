// Reads a calendar date, and writes it in a format.
#include "datasets/text/template_date.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <ctime>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/unicode_text.hpp"

namespace bipo {
namespace {

// Directives whose text depends on the date alone and is the same in Python and C.
constexpr std::string_view kDirectives = "aAbBdDeFHIjmMpRSTuUwWyYGV%";

std::tm broken_down(const CalendarDate& day) {
  const std::time_t midnight = std::chrono::system_clock::to_time_t(std::chrono::sys_days(day));
  std::tm fields{};
  gmtime_r(&midnight, &fields);
  return fields;
}

// `directive` as in "%d" or "%-d".
std::string format_directive(const std::tm& fields, const std::string& directive) {
  if (directive.size() < 2 || kDirectives.find(directive.back()) == std::string_view::npos) {
    throw UserError(fmt::format("the directive '{}' of strftime is not supported", directive));
  }
  std::array<char, 64> text{};
  const std::size_t length = std::strftime(text.data(), text.size(), directive.c_str(), &fields);
  return {text.data(), length};
}

}  // namespace

std::optional<CalendarDate> parse_iso_date(std::string_view text) {
  constexpr std::string_view kShape = "dddd-dd-dd";
  const bool has_shape =
      text.size() == kShape.size() &&
      std::equal(text.begin(), text.end(), kShape.begin(), [](char character, char shape) {
        return shape == 'd' ? is_ascii_digit(character) : character == shape;
      });
  if (!has_shape) {
    return std::nullopt;
  }
  const auto number = [&](std::size_t begin, std::size_t length) {
    unsigned value = 0;
    std::from_chars(text.data() + begin, text.data() + begin + length, value);
    return value;
  };
  const CalendarDate day(std::chrono::year(static_cast<int>(number(0, 4))),
                         std::chrono::month(number(5, 2)), std::chrono::day(number(8, 2)));
  constexpr std::chrono::year kFirstOfFourDigits{1000};
  return day.ok() && day.year() >= kFirstOfFourDigits ? std::optional(day) : std::nullopt;
}

std::string iso_text(const CalendarDate& day) {
  return fmt::format("{:04}-{:02}-{:02}", static_cast<int>(day.year()),
                     static_cast<unsigned>(day.month()), static_cast<unsigned>(day.day()));
}

std::string format_date(const CalendarDate& day, std::string_view format) {
  if (!day.ok()) {
    throw BugError("a chat template is rendered without a date");
  }
  const std::tm fields = broken_down(day);
  std::string text;
  for (std::size_t at = 0; at < format.size(); ++at) {
    if (format[at] != '%') {
      text += format[at];
      continue;
    }
    const std::size_t length = format.substr(at).starts_with("%-") ? 3 : 2;
    const std::string directive(format.substr(at, length));
    text += format_directive(fields, directive);
    at += directive.size() - 1;
  }
  return text;
}

}  // namespace bipo
