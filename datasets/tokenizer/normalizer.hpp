// Rewrites text before it is cut into words: the normalizer of a tokenizer.json.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "datasets/text/pcre2_regex.hpp"
#include "datasets/text/unicode_text.hpp"

namespace bipo {

// Throws UserError if a text of `before` bytes has grown to `after`, far beyond any real tokenizer:
// the rules of a hostile file can double a text again and again.
void require_bounded_growth(std::size_t before, std::size_t after);

// Puts `text` before every text that is not empty.
struct PrependStep {
  std::string text;
};

// Replaces every match by `content`, literally.
struct ReplaceStep {
  Regex pattern;
  std::string content;
};

// Takes white space off the ends.
struct StripSpaceStep {
  bool left = false;
  bool right = false;
};

// Character by character: a final sigma is no special case.
struct LowercaseStep {};

using NormalizerStep =
    std::variant<UnicodeForm, PrependStep, ReplaceStep, StripSpaceStep, LowercaseStep>;

// Returns `text` (well-formed UTF-8) with every match of the step replaced; empty text stays empty.
// Throws UserError if the text becomes far longer.
std::string replace_all(const ReplaceStep& step, std::string_view text);

// Const members may be called from several threads at once.
class Normalizer {
 public:
  explicit Normalizer(std::vector<NormalizerStep> steps) : steps_(std::move(steps)) {}

  bool changes_nothing() const { return steps_.empty(); }

  // Applies the steps in order to well-formed UTF-8.  Throws UserError if the text becomes far
  // longer.
  std::string normalize(std::string_view text) const;

 private:
  std::vector<NormalizerStep> steps_;
};

}  // namespace bipo
