// Recognises refusals to answer by keywords.  Local.
#pragma once

#include <span>
#include <string_view>

namespace bipo {

// In lower case, with straight apostrophes.
std::span<const std::string_view> refusal_keywords();

// Whether whole words of `text` make up any of them, in any letter case and with any apostrophe.
// Keywords miss refusals in other words and take harmless uses for refusals: report the rate beside
// a judge's.
bool is_refusal(std::string_view text);

}  // namespace bipo
