// At which tokens of a sequence a vector acts.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace bipo {

// A sequence is a prompt and an answer that follows it.  The prompt's last row, which predicts the
// answer's first token, belongs to the prompt; the answer's rows are those of its scored tokens.
struct SteeredPositions {
  // kNone: where a gate is closed; no text stands for it.
  enum class Kind { kAll, kAnswer, kPrompt, kEnds, kNone };
  Kind kind = Kind::kAll;
  // Tokens at the beginning and at the end of the prompt for kEnds, together at least 1.
  std::int64_t first = 0;
  std::int64_t last = 0;
  // The id of the begin-of-sequence token; a prompt that begins with it is taken to begin after it,
  // and its row is not steered.  -1: it is a token like others.
  std::int64_t left_out_bos = -1;
  auto operator<=>(const SteeredPositions&) const = default;

  static const SteeredPositions kAll;
  static const SteeredPositions kAnswer;
  static const SteeredPositions kNone;

  bool steers_prompts() const { return kind != Kind::kAnswer && kind != Kind::kNone; }
  bool steers_answers() const { return kind == Kind::kAll || kind == Kind::kAnswer; }
};

inline constexpr SteeredPositions SteeredPositions::kAll{};
inline constexpr SteeredPositions SteeredPositions::kAnswer{Kind::kAnswer, 0, 0, -1};
inline constexpr SteeredPositions SteeredPositions::kNone{Kind::kNone, 0, 0, -1};

// Returns for each of the `size` tokens of a prompt, which begins with `first_token`, whether its
// row is steered.
std::vector<bool> steered_rows_of_prompt(std::int64_t size, std::int64_t first_token,
                                         const SteeredPositions& positions);

// Reads all, answer, prompt, first:P, last:S or first:P,last:S, also with + for the comma.  Throws
// UserError with the rule that the text breaks.
SteeredPositions parse_positions(std::string_view text);

// Returns the text that parse_positions() reads, without what is left out.
std::string to_string(const SteeredPositions& positions);

}  // namespace bipo
