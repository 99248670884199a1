// Cuts text into the words that are merged separately.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "datasets/pcre2_regex.hpp"

namespace bipo {

// What becomes of the delimiters a split finds.
enum class DelimiterBehavior {
  kRemoved,
  kIsolated,            // each a piece of its own
  kMergedWithPrevious,  // end of the piece before
  kMergedWithNext,      // beginning of the piece after
  kContiguous,          // neighbouring delimiters together are one piece
};

struct SplitStep {
  Regex delimiter;
  DelimiterBehavior behavior = DelimiterBehavior::kIsolated;
  bool invert = false;  // what lies between matches is the delimiter
};

struct ByteLevelStep {
  bool add_prefix_space = false;  // before each piece that does not begin with a space
  bool use_regex = true;          // cut with the expression of GPT-2 as well
};

// Const members may be called from several threads at once.
class PreTokenizer {
 public:
  // `splits` in order, each on the pieces of the one before; the bytes are mapped last.
  PreTokenizer(std::vector<SplitStep> splits, ByteLevelStep byte_level);

  // The words of well-formed UTF-8 in the byte-level alphabet, none empty.
  std::vector<std::string> words(std::string_view text) const;

 private:
  std::vector<SplitStep> splits_;
  std::optional<SplitStep> byte_level_split_;
  bool add_prefix_space_;
};

}  // namespace bipo
