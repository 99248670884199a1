// Cuts text into the words that are merged separately.
#include "datasets/pre_tokenizer.hpp"

#include <algorithm>

#include "datasets/byte_level.hpp"
#include "datasets/oniguruma_pattern.hpp"

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

SplitStep gpt2_split() {
  return {Regex(oniguruma_to_pcre2(kGpt2Pattern)), DelimiterBehavior::kIsolated, false};
}

}  // namespace

PreTokenizer::PreTokenizer(std::vector<SplitStep> splits, ByteLevelStep byte_level)
    : splits_(std::move(splits)), add_prefix_space_(byte_level.add_prefix_space) {
  if (byte_level.use_regex) {
    byte_level_split_ = gpt2_split();
  }
}

std::vector<std::string> PreTokenizer::words(std::string_view text) const {
  std::vector<std::string_view> pieces;
  if (!text.empty()) {
    pieces.push_back(text);
  }
  for (const SplitStep& step : splits_) {
    std::vector<std::string_view> smaller;
    for (const std::string_view piece : pieces) {
      const std::vector<std::string_view> parts = split(step, piece);
      smaller.insert(smaller.end(), parts.begin(), parts.end());
    }
    pieces = std::move(smaller);
  }

  std::vector<std::string> words;
  for (const std::string_view piece : pieces) {
    const bool prefixed = add_prefix_space_ && !piece.starts_with(' ');
    const std::string spaced = prefixed ? " " + std::string(piece) : std::string(piece);
    if (!byte_level_split_) {
      words.push_back(to_byte_level(spaced));
      continue;
    }
    for (const std::string_view part : split(*byte_level_split_, spaced)) {
      words.push_back(to_byte_level(part));
    }
  }
  return words;
}

}  // namespace bipo
