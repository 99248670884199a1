#include "datasets/tokenizer/pre_tokenizer.hpp"

#include <algorithm>
#include <numeric>

#include "collectives/foundation/errors.hpp"
#include "datasets/tokenizer/byte_level.hpp"
#include "datasets/tokenizer/normalizer.hpp"

namespace bipo {
namespace {

struct Piece {
  Span span;
  bool is_delimiter = false;
};

// Cuts the whole text at the delimiters.
std::vector<Piece> find_pieces(const SplitStep& step, std::string_view text) {
  std::vector<Piece> pieces;
  std::size_t cut = 0;
  for (const Span& match : step.delimiter.find_all(text)) {
    if (cut != match.begin) {
      pieces.push_back({{cut, match.begin}, step.invert});
    }
    pieces.push_back({match, !step.invert});
    cut = match.end;
  }
  if (cut != text.size()) {
    pieces.push_back({{cut, text.size()}, step.invert});
  }
  return pieces;
}

// Whether a piece belongs together with the one before it.  Of several delimiters in a row only the
// first joins the text before, and only the last joins the text after.
bool joins(DelimiterBehavior behavior, bool previous_is_delimiter, bool is_delimiter) {
  switch (behavior) {
    case DelimiterBehavior::kMergedWithPrevious:
      return is_delimiter && !previous_is_delimiter;
    case DelimiterBehavior::kMergedWithNext:
      return previous_is_delimiter && !is_delimiter;
    case DelimiterBehavior::kContiguous:
      return is_delimiter == previous_is_delimiter;
    case DelimiterBehavior::kRemoved:
    case DelimiterBehavior::kIsolated:
      break;
  }
  return false;
}

// Returns the parts of `text` as views into it, without the empty ones.
std::vector<std::string_view> split(const SplitStep& step, std::string_view text) {
  std::vector<Span> spans;
  bool previous_is_delimiter = false;
  for (const Piece& piece : find_pieces(step, text)) {
    if (step.behavior == DelimiterBehavior::kRemoved && piece.is_delimiter) {
      continue;
    }
    if (!spans.empty() && joins(step.behavior, previous_is_delimiter, piece.is_delimiter)) {
      spans.back().end = piece.span.end;
    } else {
      spans.push_back(piece.span);
    }
    previous_is_delimiter = piece.is_delimiter;
  }
  std::vector<std::string_view> parts;
  for (const Span& span : spans) {
    if (span.begin < span.end) {
      parts.push_back(text.substr(span.begin, span.end - span.begin));
    }
  }
  return parts;
}

const SplitStep& gpt2_split() {
  static const SplitStep step{Regex(oniguruma_to_pcre2(kGpt2Pattern)), DelimiterBehavior::kIsolated,
                              false};
  return step;
}

// Appends the pieces that a step makes of one piece.
struct ApplySplit {
  void operator()(const SplitStep& step) const {
    const std::vector<std::string_view> parts = split(step, piece);
    pieces.insert(pieces.end(), parts.begin(), parts.end());
  }

  void operator()(const ByteLevelStep& step) const {
    const bool prefixed = step.add_prefix_space && !piece.starts_with(' ');
    const std::string spaced = prefixed ? " " + std::string(piece) : std::string(piece);
    if (!step.use_regex) {
      pieces.push_back(to_byte_level(spaced));
      return;
    }
    for (const std::string_view part : split(gpt2_split(), spaced)) {
      pieces.push_back(to_byte_level(part));
    }
  }

  void operator()(const MetaspaceStep& step) const {
    std::string spaced;
    const bool may_prepend = step.prepend_scheme == PrependScheme::kAlways ||
                             (step.prepend_scheme == PrependScheme::kFirst && begins_text);
    if (may_prepend && !piece.starts_with(' ') && !piece.starts_with(step.replacement)) {
      spaced = step.replacement;
    }
    for (const char byte : piece) {
      if (byte == ' ') {
        spaced += step.replacement;
      } else {
        spaced += byte;
      }
    }
    if (step.split) {
      append_before_each(step.replacement, spaced);
    } else {
      pieces.push_back(std::move(spaced));
    }
  }

  // Appends the text before the first `mark`, and the parts that begin at each one.
  void append_before_each(const std::string& mark, std::string_view text) const {
    while (!text.empty()) {
      const std::size_t skipped = text.starts_with(mark) ? mark.size() : 0;
      const std::size_t end = std::min(text.find(mark, skipped), text.size());
      pieces.emplace_back(text.substr(0, end));
      text.remove_prefix(end);
    }
  }

  std::string_view piece;
  bool begins_text;
  std::vector<std::string>& pieces;
};

std::size_t total_bytes(const std::vector<std::string>& pieces) {
  return std::accumulate(
      pieces.begin(), pieces.end(), std::size_t{0},
      [](std::size_t sum, const std::string& piece) { return sum + piece.size(); });
}

bool depends_on_beginning(const PreTokenizerStep& step) {
  const auto* metaspace = std::get_if<MetaspaceStep>(&step);
  return metaspace != nullptr && metaspace->prepend_scheme == PrependScheme::kFirst;
}

}  // namespace

PreTokenizer::PreTokenizer(std::vector<PreTokenizerStep> steps) : steps_(std::move(steps)) {
  if (steps_.size() > 1 && std::any_of(steps_.begin() + 1, steps_.end(), depends_on_beginning)) {
    throw BugError("a Metaspace that prepends to the first piece must be the first step");
  }
}

std::vector<std::string> PreTokenizer::words(std::string_view stretch, bool begins_text) const {
  std::vector<std::string> pieces;
  if (!stretch.empty()) {
    pieces.emplace_back(stretch);
  }
  for (const PreTokenizerStep& step : steps_) {
    std::vector<std::string> smaller;
    for (const std::string& piece : pieces) {
      std::visit(ApplySplit{piece, begins_text, smaller}, step);
    }
    pieces = std::move(smaller);
    require_bounded_growth(stretch.size(), total_bytes(pieces));
  }
  return pieces;
}

}  // namespace bipo
