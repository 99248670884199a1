// What is suspicious about tokenised pairs: equal answers, repeats, pairs in two files, and text
// that is laid out for a chat already.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "datasets/rows/row_options.hpp"
#include "datasets/tokens/token_pair.hpp"

namespace bipo {

struct PreferencePair;  // datasets/rows/preference_pairs.hpp
class Tokenizer;        // datasets/tokenizer/tokenizer.hpp

struct RepeatCounts {
  std::size_t equal = 0;     // pairs whose answers are equal
  std::size_t repeated = 0;  // pairs that repeat an earlier one
};

// Counts by tokens.
RepeatCounts count_repeats(const std::vector<TokenPair>& pairs);

// Every function below returns lines, none or one for each kind of trouble, with its number and
// first place.  `file` begins them.

// Counts pairs whose answers are equal, and pairs that repeat an earlier one, by their tokens.
std::vector<std::string> repeat_lines(const std::string& file, const std::vector<TokenPair>& pairs);

// Counts held-out pairs that are training pairs, too.
std::vector<std::string> shared_pair_lines(const std::vector<TokenPair>& train,
                                           const std::vector<TokenPair>& test);

// Counts pairs in whose messages a special token of the tokenizer stands, or a mark of a well-known
// chat format: the chat template would put its own around them.
std::vector<std::string> templated_lines(const std::string& file,
                                         const std::vector<PreferencePair>& pairs,
                                         const Tokenizer& tokenizer);

// Appends the lines to `warnings`; throws the first as UserError under kError.
void report(std::vector<std::string> lines, OnDuplicate on_duplicate,
            std::vector<std::string>& warnings);

}  // namespace bipo
