// Cuts text into the words that are merged separately.
#include "datasets/tokenizer/pre_tokenizer.hpp"

#include <algorithm>
#include <numeric>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/oniguruma_pattern.hpp"
#include "datasets/tokenizer/byte_level.hpp"
#include "datasets/tokenizer/normalizer.hpp"

namespace bipo {
namespace {

// The expression of GPT-2's encoder, which byte-level tokenizers use unless they bring their own.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

struct Piece {
  Span span;
  bool is_delimiter = false;
};

// The whole text, cut at the delimiters.
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

std::vector<Span> without_delimiters(const std::vector<Piece>& pieces) {
  std::vector<Span> spans;
  for (const Piece& piece : pieces) {
    if (!piece.is_delimiter) {
      spans.push_back(piece.span);
    }
  }
  return spans;
}

std::vector<Span> isolated(const std::vector<Piece>& pieces) {
  std::vector<Span> spans;
  for (const Piece& piece : pieces) {
    spans.push_back(piece.span);
  }
  return spans;
}

std::vector<Span> contiguous(const std::vector<Piece>& pieces) {
  std::vector<Span> spans;
  bool previous_is_delimiter = false;
  for (const Piece& piece : pieces) {
    if (!spans.empty() && piece.is_delimiter == previous_is_delimiter) {
      spans.back().end = piece.span.end;
    } else {
      spans.push_back(piece.span);
    }
    previous_is_delimiter = piece.is_delimiter;
  }
  return spans;
}

// Of several delimiters in a row only the first joins the piece before.
std::vector<Span> merged_with_previous(const std::vector<Piece>& pieces) {
  std::vector<Span> spans;
  bool previous_is_delimiter = false;
  for (const Piece& piece : pieces) {
    if (!spans.empty() && piece.is_delimiter && !previous_is_delimiter) {
      spans.back().end = piece.span.end;
    } else {
      spans.push_back(piece.span);
    }
    previous_is_delimiter = piece.is_delimiter;
  }
  return spans;
}

// The mirror image: of several delimiters in a row only the last joins the piece after.
std::vector<Span> merged_with_next(const std::vector<Piece>& pieces) {
  std::vector<Span> spans;
  bool next_is_delimiter = false;
  for (auto piece = pieces.rbegin(); piece != pieces.rend(); ++piece) {
    if (!spans.empty() && piece->is_delimiter && !next_is_delimiter) {
      spans.back().begin = piece->span.begin;
    } else {
      spans.push_back(piece->span);
    }
    next_is_delimiter = piece->is_delimiter;
  }
  std::reverse(spans.begin(), spans.end());
  return spans;
}

std::vector<Span> spans_of(const SplitStep& step, std::string_view text) {
  const std::vector<Piece> pieces = find_pieces(step, text);
  switch (step.behavior) {
    case DelimiterBehavior::kRemoved:
      return without_delimiters(pieces);
    case DelimiterBehavior::kMergedWithPrevious:
      return merged_with_previous(pieces);
    case DelimiterBehavior::kMergedWithNext:
      return merged_with_next(pieces);
    case DelimiterBehavior::kContiguous:
      return contiguous(pieces);
    case DelimiterBehavior::kIsolated:
      break;
  }
  return isolated(pieces);
}

// The pieces of `text` as views into it, without the empty ones.
std::vector<std::string_view> split(const SplitStep& step, std::string_view text) {
  std::vector<std::string_view> parts;
  for (const Span& span : spans_of(step, text)) {
    if (span.begin < span.end) {
      parts.push_back(text.substr(span.begin, span.end - span.begin));
    }
  }
  return parts;
}

void append_parts(const SplitStep& step, std::string_view text, std::vector<std::string>& pieces) {
  const std::vector<std::string_view> parts = split(step, text);
  pieces.insert(pieces.end(), parts.begin(), parts.end());
}

const SplitStep& gpt2_split() {
  static const SplitStep step{Regex(oniguruma_to_pcre2(kGpt2Pattern)), DelimiterBehavior::kIsolated,
                              false};
  return step;
}

// Appends to `pieces` what a step makes of one piece.
struct ApplySplit {
  void operator()(const SplitStep& step) const { append_parts(step, piece, pieces); }

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

  // The parts of `text` that begin at each `mark`, and what stands before the first.
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

bool knows_the_beginning(const PreTokenizerStep& step) {
  const auto* metaspace = std::get_if<MetaspaceStep>(&step);
  return metaspace != nullptr && metaspace->prepend_scheme == PrependScheme::kFirst;
}

}  // namespace

PreTokenizer::PreTokenizer(std::vector<PreTokenizerStep> steps) : steps_(std::move(steps)) {
  if (steps_.size() > 1 && std::any_of(steps_.begin() + 1, steps_.end(), knows_the_beginning)) {
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
