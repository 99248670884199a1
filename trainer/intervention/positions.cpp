#include "trainer/intervention/positions.hpp"

#include <fmt/format.h>

#include <charconv>
#include <optional>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

// Returns N of "NAME:N", nothing for another text.
std::optional<std::int64_t> count_behind(std::string_view text, std::string_view name) {
  if (!text.starts_with(name) || text.size() < name.size() + 2 || text[name.size()] != ':') {
    return std::nullopt;
  }
  text.remove_prefix(name.size() + 1);
  std::int64_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  const bool is_whole = error == std::errc() && end == text.data() + text.size();
  return is_whole && count >= 0 ? std::optional(count) : std::nullopt;
}

std::optional<SteeredPositions> parse_ends(std::string_view text) {
  SteeredPositions positions;
  positions.kind = SteeredPositions::Kind::kEnds;
  const std::size_t comma = text.find_first_of(",+");
  const bool has_both = comma != std::string_view::npos;
  const std::string_view head = text.substr(0, comma);
  const auto first = count_behind(head, "first");
  const auto last = count_behind(has_both ? text.substr(comma + 1) : head, "last");
  if (has_both ? !first || !last : !first && !last) {
    return std::nullopt;
  }
  positions.first = first.value_or(0);
  positions.last = last.value_or(0);
  return positions.first > 0 || positions.last > 0 ? std::optional(positions) : std::nullopt;
}

}  // namespace

std::vector<bool> steered_rows_of_prompt(std::int64_t size, std::int64_t first_token,
                                         const SteeredPositions& positions) {
  const bool leaves_out_first =
      positions.left_out_bos >= 0 && first_token == positions.left_out_bos;
  const std::int64_t begin = leaves_out_first ? 1 : 0;
  std::vector<bool> steered;
  for (std::int64_t row = 0; row < size; ++row) {
    bool is_steered = positions.steers_prompts();
    if (positions.kind == SteeredPositions::Kind::kEnds) {
      is_steered = row - begin < positions.first || size - row <= positions.last;
    }
    steered.push_back(is_steered && row >= begin);
  }
  return steered;
}

SteeredPositions parse_positions(std::string_view text) {
  if (text == "all") {
    return SteeredPositions::kAll;
  }
  if (text == "answer") {
    return SteeredPositions::kAnswer;
  }
  if (text == "prompt") {
    return {SteeredPositions::Kind::kPrompt, 0, 0, -1};
  }
  if (const auto ends = parse_ends(text)) {
    return *ends;
  }
  throw UserError(
      "must be all, answer, prompt, or numbers of the prompt's first and last tokens: "
      "first:2,last:2, first:2 or last:2, at least one token in all");
}

std::string to_string(const SteeredPositions& positions) {
  switch (positions.kind) {
    case SteeredPositions::Kind::kAll:
      return "all";
    case SteeredPositions::Kind::kAnswer:
      return "answer";
    case SteeredPositions::Kind::kPrompt:
      return "prompt";
    case SteeredPositions::Kind::kNone:
      return "none";
    case SteeredPositions::Kind::kEnds:
      break;
  }
  if (positions.last == 0) {
    return fmt::format("first:{}", positions.first);
  }
  if (positions.first == 0) {
    return fmt::format("last:{}", positions.last);
  }
  return fmt::format("first:{},last:{}", positions.first, positions.last);
}

}  // namespace bipo
