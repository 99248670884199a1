// Translates the regular expressions of tokenizer.json, written for Oniguruma, to PCRE2's syntax.
#pragma once

#include <string>
#include <string_view>

namespace bipo {

// An expression that PCRE2 (UTF, UCP, multi-line) matches as Oniguruma's Ruby syntax matches
// `pattern`. Throws UserError naming the construct where the two disagree or may disagree: nested
// and intersected character classes, \w, \b, \h, named properties that are no general category, ...
// Case-insensitive groups agree for single-character case folds (PCRE2 knows no "ss" = U+00DF).
std::string oniguruma_to_pcre2(std::string_view pattern);

}  // namespace bipo
