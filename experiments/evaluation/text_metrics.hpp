// Measures of generated text that need neither a model nor a judge: repetition and refusals. Local.
#pragma once

#include <optional>
#include <span>
#include <string_view>

namespace bipo {

// Returns distinct n-grams / n-grams of one text, over words separated by ASCII white space
// (distinct-n, Li et al. 2016, arXiv 1510.03055, within one text; 1: nothing repeats).  Nothing for
// a text of fewer than n words.
std::optional<double> distinct_n(std::string_view text, int n);

// Returns bytes of the zlib stream at level 9 / bytes of the text: the lower, the more repetition;
// short texts exceed 1 because of the stream's frame.  Nothing for an empty text.
std::optional<double> compression_ratio(std::string_view text);

// In lower case, with straight apostrophes.
std::span<const std::string_view> refusal_keywords();

// Returns whether whole words of `text` make up any of the keywords, in any letter case and with
// any apostrophe.  Keywords miss refusals in other words and mistake harmless uses for refusals:
// report the rate beside a judge's.
bool is_refusal(std::string_view text);

}  // namespace bipo
