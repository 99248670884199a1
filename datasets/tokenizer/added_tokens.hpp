// Finds the added and special tokens in a text.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "datasets/tokenizer/token_id.hpp"

namespace bipo {

struct AddedToken {
  TokenId id = 0;
  std::string content;       // as listed
  bool special = false;      // of two with the same pattern, the special one is found
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool normalized = false;   // searched for in the normalised text
};

// A stretch of text, or an added token in its place.
struct TextSegment {
  std::optional<TokenId> token;
  std::string_view text;  // to tokenise; empty for a token
};

// Const members may be called from several threads at once.
class AddedTokenFinder {
 public:
  // `patterns` are the tokens with the text to search for (in `content`), none empty.
  explicit AddedTokenFinder(std::vector<AddedToken> patterns);
  AddedTokenFinder(const AddedTokenFinder&) = delete;
  AddedTokenFinder& operator=(const AddedTokenFinder&) = delete;

  // Cuts `text` at its tokens: the leftmost first, and the longest of those that begin there.
  std::vector<TextSegment> split(std::string_view text) const;

 private:
  const AddedToken* longest_at(std::string_view text) const;

  std::vector<AddedToken> patterns_;                                    // special ones first
  std::unordered_map<std::string_view, const AddedToken*> by_content_;  // views of patterns_
  // Models list thousands of tokens that begin alike ("<unused0>", ...) but of few lengths, which
  // takes one search per length.  Longest first.
  std::array<std::vector<std::size_t>, 256> lengths_by_first_byte_;
};

}  // namespace bipo
