#include "experiments/evaluation/judge_scale.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <limits>
#include <vector>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

constexpr std::string_view kMinus = "\xE2\x88\x92";  // U+2212

bool is_digit(char character) {
  return character >= '0' && character <= '9';
}

bool is_letter(char character) {
  return (character >= 'a' && character <= 'z') || (character >= 'A' && character <= 'Z') ||
         character == '_';
}

bool is_blank(char character) {
  return character == ' ' || character == '\t' || character == '\r';
}

// Returns the character at `place`, a blank outside the text.
char at(std::string_view text, std::size_t place) {
  return place < text.size() ? text[place] : ' ';
}

// Returns the end of the digits, with or without decimals, that begin at `begin`.
std::size_t end_of_number(std::string_view text, std::size_t begin) {
  std::size_t end = begin;
  while (is_digit(at(text, end))) {
    ++end;
  }
  if (at(text, end) == '.' && is_digit(at(text, end + 1))) {
    ++end;
    while (is_digit(at(text, end))) {
      ++end;
    }
  }
  return end;
}

double value_of(std::string_view digits) {
  double value = std::numeric_limits<double>::quiet_NaN();
  std::from_chars(digits.data(), digits.data() + digits.size(), value, std::chars_format::fixed);
  return value;
}

struct Number {
  double value = 0;  // NaN: none that a scale could hold
  std::size_t begin = 0;
  std::size_t end = 0;
};

// The sign before a number, with its place, or part of a word or a range.
struct Before {
  bool is_negative = false;
  bool is_word = false;
  std::size_t begin = 0;
};

Before before_number(std::string_view line, std::size_t begin) {
  const auto previous = [&](std::size_t place) { return place == 0 ? ' ' : line[place - 1]; };
  const char last = previous(begin);
  if (last == '-') {
    const char earlier = previous(begin - 1);
    return {!is_digit(earlier) && !is_letter(earlier), is_letter(earlier), begin - 1};
  }
  if (line.substr(0, begin).ends_with(kMinus)) {
    const std::size_t sign = begin - kMinus.size();
    return {!is_digit(previous(sign)), false, sign};
  }
  if (last == '+') {
    return {false, false, begin - 1};
  }
  return {false, is_letter(last), begin};
}

std::vector<Number> numbers_of(std::string_view line, const JudgeScale& scale) {
  constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  std::vector<Number> numbers;
  for (std::size_t place = 0; place < line.size();) {
    if (!is_digit(line[place])) {
      ++place;
      continue;
    }
    const std::size_t end = end_of_number(line, place);
    const std::string_view digits = line.substr(place, end - place);
    const Before before = before_number(line, place);
    Number number{value_of(digits), before.begin, end};
    const bool is_filled = digits.size() > 1 && digits[0] == '0' && digits[1] != '.';
    const bool is_decimals_alone = place > 0 && line[place - 1] == '.';
    if (is_filled || is_decimals_alone) {
      number.value = kNone;
    }
    if (before.is_negative) {
      number.value = -number.value;
    }
    if (at(line, end) == '%') {
      number.value = scale.high == 100 ? number.value : kNone;
      ++number.end;
    }
    if (!before.is_word && !is_letter(at(line, end))) {
      numbers.push_back(number);
    }
    place = end;
  }
  return numbers;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_blank(text.front())) {
    text.remove_prefix(1);
  }
  while (!text.empty() && is_blank(text.back())) {
    text.remove_suffix(1);
  }
  return text;
}

std::string_view first_line(std::string_view reply) {
  while (!reply.empty()) {
    const std::size_t end = reply.find('\n');
    const std::string_view line = trimmed(reply.substr(0, end));
    if (!line.empty()) {
      return line;
    }
    reply.remove_prefix(end == std::string_view::npos ? reply.size() : end + 1);
  }
  return {};
}

// What Markdown and quotation put around a word.
bool is_ornament(char character) {
  return std::string_view("*_`\"'([#").find(character) != std::string_view::npos;
}

// Whether the line is the number, perhaps with an end of a sentence and words behind it.
bool begins_line(std::string_view line, const Number& number, std::size_t end) {
  for (std::size_t place = 0; place < number.begin; ++place) {
    if (!is_ornament(line[place]) && !is_blank(line[place])) {
      return false;
    }
  }
  while (is_ornament(at(line, end)) && end < line.size()) {
    ++end;
  }
  if (end >= line.size()) {
    return true;
  }
  const std::string_view rest = trimmed(line.substr(end));
  constexpr std::string_view kEnds[] = {".",           ":", ")", "]", ";", "-", "\xE2\x80\x93",
                                        "\xE2\x80\x94"};
  for (const std::string_view mark : kEnds) {
    if (rest.starts_with(mark)) {
      const std::string_view behind = trimmed(rest.substr(mark.size()));
      return behind.empty() || is_letter(behind.front()) || is_ornament(behind.front());
    }
  }
  return false;
}

// Whether the second number only repeats the top of the scale: "3/4", "3 out of 4".
bool names_top(std::string_view line, const Number& first, const Number& second,
               const JudgeScale& scale) {
  const std::string_view between = trimmed(line.substr(first.end, second.begin - first.end));
  return second.value == scale.high && (between == "/" || between == "out of" || between == "of");
}

// One of the two numbers of a scale's text, from `place` on.
double bound_of(const std::string& text, std::size_t& place) {
  constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  const bool is_negative = at(text, place) == '-';
  const std::size_t begin = place + (is_negative ? 1 : 0);
  if (!is_digit(at(text, begin))) {
    return kNone;
  }
  place = end_of_number(text, begin);
  const double value = value_of(std::string_view(text).substr(begin, place - begin));
  return is_negative ? -value : value;
}

}  // namespace

bool JudgeScale::holds(double score) const {
  return score >= low && score <= high && (has_decimals || score == std::floor(score));
}

std::string JudgeScale::words() const {
  const std::size_t dash = text.find('-', 1);
  return text.substr(0, dash) + " to " + text.substr(dash + 1);
}

JudgeScale parse_judge_scale(const std::string& text) {
  JudgeScale scale;
  scale.text = text;
  std::size_t place = 0;
  scale.low = bound_of(text, place);
  const bool has_dash = at(text, place) == '-';
  place += has_dash ? 1 : 0;
  scale.high = has_dash ? bound_of(text, place) : std::numeric_limits<double>::quiet_NaN();
  if (place != text.size() || !(scale.low < scale.high)) {
    throw UserError(
        "must be the lowest and the highest score, LOW-HIGH: 1-4, 0-100, or with a decimal point "
        "where scores may have decimals, 0.0-1.0");
  }
  scale.has_decimals = text.find('.') != std::string::npos;
  return scale;
}

std::optional<double> score_in_reply(std::string_view reply, const JudgeScale& scale) {
  const std::string_view line = first_line(reply);
  const std::vector<Number> numbers = numbers_of(line, scale);
  if (numbers.empty()) {
    return std::nullopt;
  }
  const bool has_top = numbers.size() > 1 && names_top(line, numbers[0], numbers[1], scale);
  const std::size_t own = has_top ? 2 : 1;
  if (numbers.size() > own && !begins_line(line, numbers[0], numbers[own - 1].end)) {
    return std::nullopt;
  }
  const double score = numbers[0].value + 0.0;  // -0 is 0
  return scale.holds(score) ? std::optional(score) : std::nullopt;
}

}  // namespace bipo
