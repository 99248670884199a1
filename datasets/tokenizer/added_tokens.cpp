#include "datasets/tokenizer/added_tokens.hpp"

#include <algorithm>
#include <functional>

#include "datasets/text/pcre2_regex.hpp"
#include "datasets/text/unicode_text.hpp"

namespace bipo {
namespace {

// \w of Unicode's regular expressions (UTS 18, annex C).
bool starts_with_word_character(std::string_view text) {
  static const Regex word("[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]");
  return word.length_at_start(text) > 0;
}

bool ends_with_word_character(std::string_view text) {
  return !text.empty() && starts_with_word_character(last_character(text));
}

}  // namespace

void AddedVocabulary::add(const AddedToken& token) {
  if (token.content.empty()) {
    return;
  }
  if (token.special) {
    special_.emplace(token.content, token.normalized);
  }
  const TokenId size = static_cast<TokenId>(vocabulary_.size());
  const TokenId id = id_of(token.content).value_or(std::max<TokenId>(highest_ + 1, size));
  ids_.emplace(token.content, id);
  highest_ = std::max(highest_, id);
  AddedToken& stored = by_id_[id];
  stored = token;
  stored.id = id;
}

std::optional<TokenId> AddedVocabulary::id_of(const std::string& content) const {
  if (const auto added = ids_.find(content); added != ids_.end()) {
    return added->second;
  }
  const auto known = vocabulary_.find(content);
  return known == vocabulary_.end() ? std::nullopt : std::optional(known->second);
}

std::vector<AddedToken> AddedVocabulary::tokens() const {
  std::vector<AddedToken> all;
  for (const auto& [id, token] : by_id_) {
    all.push_back(token);
    if (const auto first = special_.find(token.content); first != special_.end()) {
      all.back().special = true;
      all.back().normalized = token.normalized && first->second;
    }
  }
  return all;
}

AddedTokenFinder::AddedTokenFinder(std::vector<AddedToken> patterns, bool splits_special)
    : patterns_(std::move(patterns)), splits_special_(splits_special) {
  std::stable_partition(patterns_.begin(), patterns_.end(),
                        [](const AddedToken& token) { return token.special; });
  for (const AddedToken& token : patterns_) {
    by_content_.emplace(token.content, &token);
    std::vector<std::size_t>& lengths =
        lengths_by_first_byte_[static_cast<unsigned char>(token.content.front())];
    if (std::find(lengths.begin(), lengths.end(), token.content.size()) == lengths.end()) {
      lengths.push_back(token.content.size());
    }
  }
  for (std::vector<std::size_t>& lengths : lengths_by_first_byte_) {
    std::sort(lengths.begin(), lengths.end(), std::greater<>());
  }
}

const AddedToken* AddedTokenFinder::longest_at(std::string_view text) const {
  for (const std::size_t length : lengths_by_first_byte_[static_cast<unsigned char>(text[0])]) {
    const auto found = by_content_.find(text.substr(0, length));
    if (found != by_content_.end()) {
      return found->second;
    }
  }
  return nullptr;
}

std::vector<TextSegment> AddedTokenFinder::split(std::string_view text) const {
  std::vector<TextSegment> segments;
  std::size_t cut = 0;  // everything before it is in `segments`
  std::size_t position = 0;
  while (position < text.size()) {
    const AddedToken* token = longest_at(text.substr(position));
    if (token == nullptr) {
      ++position;
      continue;
    }
    std::size_t begin = position;
    std::size_t end = position + token->content.size();
    // The search continues right after the token, even if rstrip takes more or the token is
    // rejected as part of a word, as Hugging Face does.
    position = end;
    if (splits_special_ && token->special) {
      continue;
    }
    if (token->single_word && (ends_with_word_character(text.substr(0, begin)) ||
                               starts_with_word_character(text.substr(end)))) {
      continue;
    }
    if (token->lstrip) {
      begin = std::max(begin, cut);
      begin -= trailing_white_space(text.substr(cut, begin - cut));
    }
    if (token->rstrip) {
      end += leading_white_space(text.substr(end));
    }
    if (begin >= end) {
      continue;  // white space that the token before it took with rstrip
    }
    if (cut < begin) {
      segments.push_back({std::nullopt, text.substr(cut, begin - cut)});
    }
    segments.push_back({token->id, {}});
    cut = end;
  }
  if (cut < text.size()) {
    segments.push_back({std::nullopt, text.substr(cut)});
  }
  return segments;
}

}  // namespace bipo
