#include "datasets/tokens/pair_text.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "datasets/tokens/pair_checks.hpp"

namespace bipo {
namespace {

using Tokens = std::vector<TokenId>;

constexpr std::size_t kFirstTokens = 6;

// What train shows of a long prompt and a long answer.
constexpr std::size_t kShownOfPrompt = 16;  // at either end
constexpr std::size_t kShownOfAnswer = 16;
constexpr std::size_t kShownOfAnswersEnd = 4;

template <typename Length>
LengthSummary lengths_of(const std::vector<TokenPair>& pairs, const Length& length) {
  std::vector<std::int64_t> lengths;
  std::transform(pairs.begin(), pairs.end(), std::back_inserter(lengths), length);
  return summarize_lengths(std::move(lengths));
}

std::string json_text(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// Returns the text with control characters and backslashes as JSON has them.
std::string on_one_line(const std::string& text) {
  const std::string quoted = json_text(text);
  std::string line;
  for (std::size_t i = 1; i + 1 < quoted.size(); ++i) {
    const bool escapes = quoted[i] == '\\';
    if (escapes && quoted[i + 1] != '"') {
      line += quoted[i];
    }
    if (escapes) {
      ++i;
    }
    line += quoted[i];
  }
  return line;
}

// Text of one token, or of several that are one character together.
struct Piece {
  std::string text;
  std::size_t tokens = 0;
};

std::vector<Piece> pieces_of(const Tokens& tokens, const Tokenizer& tokenizer) {
  Tokenizer::DecodeStream stream = tokenizer.decode_stream(SpecialTokenText::kKept);
  std::vector<Piece> pieces;
  std::size_t held_back = 0;
  for (const TokenId token : tokens) {
    const std::string text = stream.push(token);
    ++held_back;
    if (!text.empty()) {
      pieces.push_back({on_one_line(text), held_back});
      held_back = 0;
    }
  }
  if (const std::string rest = stream.finish(); !rest.empty()) {
    pieces.push_back({on_one_line(rest), held_back});
  }
  return pieces;
}

std::string joined(const std::vector<Piece>& pieces, std::size_t begin, std::size_t end) {
  std::string text;
  for (std::size_t i = begin; i < end; ++i) {
    text += (i == begin ? "" : "│") + pieces[i].text;
  }
  return text;
}

std::string part_name(const char* name, const Tokens& tokens, const ScoredTokens& scored) {
  const std::string of_scored =
      scored.empty() ? "" : fmt::format(", {} scored", scored_count(scored, tokens.size()));
  return fmt::format("{} ({}{})", name, tokens.size(), of_scored);
}

}  // namespace

LengthSummary summarize_lengths(std::vector<std::int64_t> lengths) {
  std::sort(lengths.begin(), lengths.end());
  const std::size_t middle = lengths.size() / 2;
  const double median = lengths.size() % 2 == 1
                            ? static_cast<double>(lengths[middle])
                            : static_cast<double>(lengths[middle - 1] + lengths[middle]) / 2;
  return {lengths.front(), median, lengths.back()};
}

std::int64_t length_of(const TokenPair& pair) {
  return static_cast<std::int64_t>(pair.prompt.size() +
                                   std::max(pair.chosen.size(), pair.rejected.size()));
}

std::vector<std::pair<const char*, LengthSummary>> part_lengths(
    const std::vector<TokenPair>& pairs) {
  const auto size_of = [](Tokens TokenPair::*part) {
    return [part](const TokenPair& pair) { return static_cast<std::int64_t>((pair.*part).size()); };
  };
  return {{"prompt", lengths_of(pairs, size_of(&TokenPair::prompt))},
          {"chosen", lengths_of(pairs, size_of(&TokenPair::chosen))},
          {"rejected", lengths_of(pairs, size_of(&TokenPair::rejected))},
          {"prompt and longer answer", lengths_of(pairs, length_of)}};
}

std::string TokenText::whole(const Tokens& tokens) const {
  return tokenizer_.decode(tokens, SpecialTokenText::kKept);
}

std::string TokenText::quoted(const Tokens& tokens) const {
  return json_text(whole(tokens));
}

std::string TokenText::marked(const Tokens& tokens, const ScoredTokens& scored) const {
  std::string text;
  for (std::size_t begin = 0, end = 0; begin < tokens.size(); begin = end) {
    const bool counts = is_scored(scored, begin);
    while (end < tokens.size() && is_scored(scored, end) == counts) {
      ++end;
    }
    const std::string part = whole({tokens.begin() + static_cast<std::ptrdiff_t>(begin),
                                    tokens.begin() + static_cast<std::ptrdiff_t>(end)});
    text += counts ? part : fmt::format("[[{}]]", part);
  }
  return text;
}

std::string TokenText::first(const Tokens& tokens) const {
  std::vector<std::string> shown;
  for (std::size_t i = 0; i < std::min(tokens.size(), kFirstTokens); ++i) {
    shown.push_back(fmt::format("{} {}", quoted({tokens[i]}), tokens[i]));
  }
  return fmt::format("{}{}", fmt::join(shown, ", "), tokens.size() > kFirstTokens ? ", ..." : "");
}

std::string TokenText::bounded(const Tokens& tokens, std::size_t begin, std::size_t end) const {
  const std::vector<Piece> pieces = pieces_of(tokens, tokenizer_);
  // What hides one or two tokens is longer than they are.
  if (pieces.size() <= begin + end + 2) {
    return joined(pieces, 0, pieces.size());
  }
  std::size_t hidden = 0;
  for (std::size_t i = begin; i + end < pieces.size(); ++i) {
    hidden += pieces[i].tokens;
  }
  return fmt::format("{} ... {} tokens ... {}", joined(pieces, 0, begin), hidden,
                     joined(pieces, pieces.size() - end, pieces.size()));
}

std::vector<std::string> overview_lines(const std::string& what,
                                        const std::vector<TokenPair>& pairs) {
  const RepeatCounts repeats = count_repeats(pairs);
  std::vector<std::string> lengths;
  for (const auto& [name, length] : part_lengths(pairs)) {
    lengths.push_back(fmt::format("{} {} to {}", name, length.median, length.most));
  }
  return {fmt::format("{}: {}, {} of them repeat an earlier one, {} have equal answers", what,
                      pairs.size(), repeats.repeated, repeats.equal),
          fmt::format("  tokens, median to most: {}", fmt::join(lengths, ", "))};
}

std::vector<std::string> bounded_lines(const std::string& what, const TokenPair& pair,
                                       const Tokenizer& tokenizer) {
  const TokenText text(tokenizer);
  const std::vector<std::pair<std::string, std::string>> parts = {
      {part_name("prompt", pair.prompt, {}),
       text.bounded(pair.prompt, kShownOfPrompt, kShownOfPrompt)},
      {part_name("chosen", pair.chosen, pair.chosen_scored),
       text.bounded(pair.chosen, kShownOfAnswer, kShownOfAnswersEnd)},
      {part_name("rejected", pair.rejected, pair.rejected_scored),
       text.bounded(pair.rejected, kShownOfAnswer, kShownOfAnswersEnd)}};
  std::size_t width = 0;
  for (const auto& [name, shown] : parts) {
    width = std::max(width, name.size());
  }
  std::vector<std::string> lines = {
      fmt::format("{}, {}; a bar stands between tokens", what, pair.where)};
  for (const auto& [name, shown] : parts) {
    lines.push_back(fmt::format("  {:<{}}  {}", name, width, shown));
  }
  return lines;
}

}  // namespace bipo
