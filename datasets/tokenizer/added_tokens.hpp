// The added and special tokens of a tokenizer: their ids, and where they stand in a text.
#pragma once

#include <array>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "datasets/tokenizer/bpe_model.hpp"
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

// Gives added tokens their ids and merges what several files say about one token, as Hugging Face
// tokenizers' add_tokens() does: a token of the vocabulary keeps its id, any other takes the next
// one after the vocabulary's size and the added tokens before it (which may be the id of another
// token where ids have holes).  A token that is added again takes the new flags, but stays special,
// and stays outside of the normalised text if it was added so as a special one.
class AddedVocabulary {
 public:
  // `vocabulary` must outlive it.
  explicit AddedVocabulary(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {}

  void add(const AddedToken& token);  // `id` is ignored; no effect without content

  bool contains(const std::string& content) const { return ids_.contains(content); }
  std::optional<TokenId> id_of(const std::string& content) const;  // also of the vocabulary

  std::vector<AddedToken> tokens() const;  // by id, each content once

 private:
  const Vocabulary& vocabulary_;
  std::unordered_map<std::string, TokenId> ids_;
  std::map<TokenId, AddedToken> by_id_;
  std::unordered_map<std::string, bool> special_;  // as first added special: whether normalized
  TokenId highest_ = -1;
};

// A stretch of text, or an added token in its place.
struct TextSegment {
  std::optional<TokenId> token;
  std::string_view text;  // to tokenise; empty for a token
};

// Const members may be called from several threads at once.
class AddedTokenFinder {
 public:
  // `patterns` are the tokens with the text to search for (in `content`), none empty.  With
  // `splits_special`, special ones are text like any other.
  explicit AddedTokenFinder(std::vector<AddedToken> patterns, bool splits_special = false);
  AddedTokenFinder(const AddedTokenFinder&) = delete;
  AddedTokenFinder& operator=(const AddedTokenFinder&) = delete;

  // Cuts `text` at its tokens: the leftmost first, and the longest of those that begin there.
  std::vector<TextSegment> split(std::string_view text) const;

 private:
  const AddedToken* longest_at(std::string_view text) const;

  std::vector<AddedToken> patterns_;  // special ones first
  bool splits_special_;
  std::unordered_map<std::string_view, const AddedToken*> by_content_;  // views of patterns_
  // Models list thousands of tokens that begin alike ("<unused0>", ...) but of few lengths, which
  // takes one search per length.  Longest first.
  std::array<std::vector<std::size_t>, 256> lengths_by_first_byte_;
};

}  // namespace bipo
