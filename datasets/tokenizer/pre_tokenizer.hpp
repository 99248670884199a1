// Cuts text into the words that are merged separately.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "datasets/text/pcre2_regex.hpp"

namespace bipo {

// Expressions by which models cut texts, as their tokenizer.json has them.  GPT-2's is the default
// of byte-level tokenizers.
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view kQwen35Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N})"
    R"(| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// How a split treats the delimiters that it finds.
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
  bool invert = false;  // the text between matches is the delimiter
};

// Maps bytes to the byte-level alphabet.
struct ByteLevelStep {
  bool add_prefix_space = false;  // before each piece that does not begin with a space
  bool use_regex = true;          // cut with the expression of GPT-2, too
};

// Which pieces get the replacement of a space in front, unless they begin with it.
enum class PrependScheme { kAlways, kFirst, kNever };

// Writes spaces as `replacement`.
struct MetaspaceStep {
  std::string replacement = "\u2581";  // one character
  // kFirst is the piece at the very beginning of a text, added tokens included.
  PrependScheme prepend_scheme = PrependScheme::kAlways;
  bool split = true;  // before every replacement
};

using PreTokenizerStep = std::variant<SplitStep, ByteLevelStep, MetaspaceStep>;

// Const members may be called from several threads at once.
class PreTokenizer {
 public:
  // Each step works on the pieces of the step before.  Throws BugError unless a Metaspace with
  // kFirst is the first step: after another step, a piece's place in the text is not known.
  explicit PreTokenizer(std::vector<PreTokenizerStep> steps);

  // Returns the words of a stretch of well-formed UTF-8, none empty.  `begins_text`: the stretch is
  // the beginning of the text.
  std::vector<std::string> words(std::string_view stretch, bool begins_text) const;

 private:
  std::vector<PreTokenizerStep> steps_;
};

}  // namespace bipo
