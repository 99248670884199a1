// The byte-pair merges of one word.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "datasets/tokenizer/token_id.hpp"

namespace bipo {

struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const {
    return std::hash<std::string_view>{}(text);
  }
};
using Vocabulary = std::unordered_map<std::string, TokenId, StringHash, std::equal_to<>>;

using MergePair = std::pair<std::string, std::string>;

// Reads a merge written as "left right"; nullopt unless there is exactly one space.
std::optional<MergePair> split_merge(const std::string& line);

struct BpeSettings {
  Vocabulary vocabulary;                     // distinct ids >= 0
  std::vector<MergePair> merges;             // earlier ones are applied first
  std::optional<std::string> unknown_token;  // for characters without an id
  bool fuse_unknown = false;                 // one unknown token for a run of such characters
  bool byte_fallback = false;  // tokens <0x00> ... <0xFF> come before the unknown token
  bool ignore_merges = false;  // a word that is a token is never cut
};

// Const members may be called from several threads at once.
class BpeModel {
 public:
  // Throws UserError if a merge names or makes a token that is not in the vocabulary.
  explicit BpeModel(BpeSettings settings);

  const Vocabulary& vocabulary() const { return settings_.vocabulary; }

  // Appends the ids of `word`, in O(n log n) of its length.  Omits a character that has no id, no
  // byte tokens and no unknown token, as Hugging Face does.  Throws UserError if the unknown token
  // is needed and is not in the vocabulary.
  void append_ids(std::string_view word, std::vector<TokenId>& ids) const;

 private:
  struct Merge {
    std::int32_t rank = 0;
    TokenId merged = 0;
  };

  std::optional<TokenId> id_of(std::string_view token) const;
  TokenId require_id(const std::string& token, const std::string& merge) const;
  TokenId unknown_id() const;
  bool append_byte_tokens(std::string_view character, std::vector<TokenId>& ids) const;
  std::vector<TokenId> character_ids(std::string_view word) const;
  const Merge* find_merge(TokenId left, TokenId right) const;
  void append_merged(std::vector<TokenId> characters, std::vector<TokenId>& ids) const;

  BpeSettings settings_;
  std::uint64_t number_;  // of this object; a copy has the same ids and may share the number
  std::unordered_map<std::uint64_t, Merge> merges_;  // by the pair of ids
};

}  // namespace bipo
