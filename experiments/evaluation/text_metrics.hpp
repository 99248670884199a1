// What generated text shows of repetition, without a model or a judge.  Local.
#pragma once

#include <optional>
#include <string_view>

namespace bipo {

// Distinct n-grams / n-grams of one text, over words separated by ASCII white space (distinct-n,
// Li et al. 2016, arXiv 1510.03055, within one text; 1 means that nothing repeats).  Nothing for a
// text of fewer than n words.
std::optional<double> distinct_n(std::string_view text, int n);

// Bytes of the zlib stream at level 9 / bytes of the text: the lower, the more repetition; short
// texts exceed 1 by the stream's frame.  Nothing for an empty text.
std::optional<double> compression_ratio(std::string_view text);

}  // namespace bipo
