// Byte-level BPE: added tokens, normalisation, words, merges.
#include "datasets/tokenizer.hpp"

#include <algorithm>
#include <iterator>

#include "datasets/added_tokens.hpp"
#include "datasets/tokenizer_json.hpp"
#include "datasets/unicode_text.hpp"

namespace bipo {
namespace {

std::vector<AddedToken> searched_in_raw_text(const std::vector<AddedToken>& tokens) {
  std::vector<AddedToken> found;
  std::copy_if(tokens.begin(), tokens.end(), std::back_inserter(found),
               [](const AddedToken& token) { return !token.normalized; });
  return found;
}

std::vector<AddedToken> searched_in_normalized_text(const std::vector<AddedToken>& tokens,
                                                    bool normalize_nfc) {
  std::vector<AddedToken> found;
  for (AddedToken token : tokens) {
    if (token.normalized) {
      token.content = normalize_nfc ? to_nfc(token.content) : token.content;
      found.push_back(std::move(token));
    }
  }
  return found;
}

TokenId highest_id(const Vocabulary& vocabulary) {
  TokenId highest = -1;
  for (const auto& entry : vocabulary) {
    highest = std::max(highest, entry.second);
  }
  return highest;
}

}  // namespace

struct Tokenizer::Impl {
  explicit Impl(TokenizerParts parts)
      : model(std::move(parts.model)),
        normalize_nfc(parts.normalize_nfc),
        pre_tokenizer(std::move(parts.pre_tokenizer)),
        raw_finder(searched_in_raw_text(parts.added_tokens)),
        normalized_finder(searched_in_normalized_text(parts.added_tokens, normalize_nfc)),
        vocabulary_size(std::int64_t{highest_id(model.vocabulary())} + 1) {
    for (const AddedToken& token : parts.added_tokens) {
      added_ids.emplace(token.content, token.id);
      vocabulary_size = std::max(vocabulary_size, std::int64_t{token.id} + 1);
    }
  }

  void append_ids(std::string_view raw_text, std::vector<TokenId>& ids) const {
    const std::string text = normalize_nfc ? to_nfc(raw_text) : std::string(raw_text);
    for (const TextSegment& segment : normalized_finder.split(text)) {
      if (segment.token) {
        ids.push_back(*segment.token);
        continue;
      }
      for (const std::string& word : pre_tokenizer.words(segment.text)) {
        model.append_ids(word, ids);
      }
    }
  }

  BpeModel model;
  bool normalize_nfc;
  PreTokenizer pre_tokenizer;
  AddedTokenFinder raw_finder;
  AddedTokenFinder normalized_finder;
  Vocabulary added_ids;
  std::int64_t vocabulary_size;
};

Tokenizer Tokenizer::from_file(const std::filesystem::path& tokenizer_json) {
  return Tokenizer(std::make_unique<Impl>(read_tokenizer_json(tokenizer_json)));
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {
}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

std::vector<TokenId> Tokenizer::encode(std::string_view text) const {
  require_utf8(text);
  std::vector<TokenId> ids;
  for (const TextSegment& segment : impl_->raw_finder.split(text)) {
    if (segment.token) {
      ids.push_back(*segment.token);
    } else {
      impl_->append_ids(segment.text, ids);
    }
  }
  return ids;
}

std::optional<TokenId> Tokenizer::token_id(std::string_view token) const {
  if (const auto added = impl_->added_ids.find(token); added != impl_->added_ids.end()) {
    return added->second;
  }
  const Vocabulary& vocabulary = impl_->model.vocabulary();
  const auto found = vocabulary.find(token);
  return found == vocabulary.end() ? std::nullopt : std::optional(found->second);
}

std::int64_t Tokenizer::vocabulary_size() const {
  return impl_->vocabulary_size;
}

}  // namespace bipo
