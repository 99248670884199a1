// The scale of a judge's scores, and the one score that a reply holds.  Local: pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace bipo {

struct JudgeScale {
  double low = 1;
  double high = 4;
  bool has_decimals = false;  // else scores are whole numbers
  std::string text = "1-4";   // as --judge-scale names it

  bool operator==(const JudgeScale& other) const {
    return low == other.low && high == other.high && has_decimals == other.has_decimals;
  }
  bool holds(double score) const;
  std::string words() const;  // "1 to 4"
};

// Parses LOW-HIGH, 0-100 or -2.0-2.0: two numbers in decimal notation, the second the larger.  A
// decimal point in either admits scores that are no whole numbers.  Throws UserError with the rule
// that the text breaks.
JudgeScale parse_judge_scale(const std::string& text);

// Returns the score in the first line of the reply that is not blank: its only number, or the
// number that it begins with if a full stop, colon, bracket or dash and then a word or nothing
// follow.  "/HIGH" or "out of HIGH" behind it belongs to it.  Digits within words ("GPT-4", "3rd")
// are no numbers.  Returns nothing for a number that the scale does not hold.
std::optional<double> score_in_reply(std::string_view reply, const JudgeScale& scale);

}  // namespace bipo
