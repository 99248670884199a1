// What a vector in use does to a row that it steers.
#pragma once

#include <string>
#include <string_view>

namespace bipo {

// With v the vector, h the row and c its coefficient, which is the multiplier times the vector's
// weight:
//   kAdd    h + c v
//   kNull   h - c (v.h)/(v.v) v: c is the share of the component along v that is taken away; 1
//           projects v out
//   kClamp  h + (c X - v.h/|v|) v/|v|: the component along v becomes c X
//   kConceptor  h + c (beta C h - h), with a conceptor C [D, D] in place of v and c the multiplier
//           alone: 1 puts beta C h in the place of h (Postmus and Abreu 2024, arXiv 2410.16314)
// A row with the coefficient 0 is not steered, by kClamp neither; nor does a vector of zeros steer
// by kNull or kClamp, which know its direction only.
struct Intervention {
  enum class Kind { kAdd, kNull, kClamp, kConceptor };
  Kind kind = Kind::kAdd;
  double level = 0;  // X of kClamp, in units of the residual stream; beta of kConceptor
  bool operator==(const Intervention&) const = default;
};

// Reads add, null or clamp:X.  Throws UserError with the rule that the text breaks: that a
// conceptor acts by its own intervention follows from what is used, and cannot be asked for.
Intervention parse_intervention(std::string_view text);

// Returns the text that parse_intervention() reads; of a conceptor "conceptor:BETA".
std::string to_string(const Intervention& intervention);

}  // namespace bipo
