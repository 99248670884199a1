// Token pairs as people read them: text, the boundaries of its tokens, and lengths.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "datasets/tokenizer/tokenizer.hpp"
#include "datasets/tokens/token_pair.hpp"

namespace bipo {

// Lengths of a part of all pairs, in tokens.
struct LengthSummary {
  std::int64_t least = 0;
  double median = 0;  // of an even number of lengths the mean of the two in the middle
  std::int64_t most = 0;
};

// `lengths` must not be empty.
LengthSummary summarize_lengths(std::vector<std::int64_t> lengths);

// Returns the tokens of the prompt and the longer answer.
std::int64_t length_of(const TokenPair& pair);

// Returns the parts of a pair by name, and the prompt with the longer answer last.  `pairs` must
// not be empty.
std::vector<std::pair<const char*, LengthSummary>> part_lengths(
    const std::vector<TokenPair>& pairs);

// Tokens as text; nothing of them is left out.
class TokenText {
 public:
  // The tokenizer must outlive this object.
  explicit TokenText(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  std::string whole(const std::vector<TokenId>& tokens) const;

  // Returns the text as a JSON string.
  std::string quoted(const std::vector<TokenId>& tokens) const;

  // Returns the answer's text, with the parts that are not scored between "[[" and "]]".
  std::string marked(const std::vector<TokenId>& tokens, const ScoredTokens& scored) const;

  // Returns the first tokens with their ids: "Cer" 310, "tainly" 422, ...
  std::string first(const std::vector<TokenId>& tokens) const;

  // Returns the text on one line with a bar between tokens, which stays out of the middle of a
  // character of several tokens; control characters are escaped as in JSON.  Of a longer text
  // `begin` tokens at the beginning and `end` at the end are shown.
  std::string bounded(const std::vector<TokenId>& tokens, std::size_t begin, std::size_t end) const;

 private:
  const Tokenizer& tokenizer_;
};

// Returns how many pairs there are and how long, and how many of them repeat or teach nothing, in
// lines for a terminal.  `what` names the pairs: "training pairs".
std::vector<std::string> overview_lines(const std::string& what,
                                        const std::vector<TokenPair>& pairs);

// Returns the pair as bounded() shows its parts, long ones shortened.
std::vector<std::string> bounded_lines(const std::string& what, const TokenPair& pair,
                                       const Tokenizer& tokenizer);

}  // namespace bipo
