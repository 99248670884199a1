// Text to token ids and back: added tokens, normalisation, words, merges; decoding.
#include "datasets/tokenizer/tokenizer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/unicode_text.hpp"
#include "datasets/tokenizer/added_tokens.hpp"
#include "datasets/tokenizer/tokenizer_parts.hpp"

namespace bipo {
namespace {

std::vector<AddedToken> found_in_raw_text(const std::vector<AddedToken>& tokens) {
  std::vector<AddedToken> found;
  std::copy_if(tokens.begin(), tokens.end(), std::back_inserter(found),
               [](const AddedToken& token) { return !token.normalized; });
  return found;
}

std::vector<AddedToken> found_in_normalized_text(const std::vector<AddedToken>& tokens,
                                                 const Normalizer& normalizer) {
  std::vector<AddedToken> found;
  for (AddedToken token : tokens) {
    if (token.normalized) {
      token.content = normalizer.normalize(token.content);
      if (token.content.empty()) {
        throw UserError(fmt::format(
            "added_tokens: the normalizer leaves nothing of token {}, so it would match anywhere; "
            "set its \"normalized\" to false",
            token.id));
      }
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
        normalizer(std::move(parts.normalizer)),
        pre_tokenizer(std::move(parts.pre_tokenizer)),
        decoder(std::move(parts.decoder)),
        raw_finder(found_in_raw_text(parts.added_tokens), parts.splits_special_tokens),
        normalized_finder(found_in_normalized_text(parts.added_tokens, normalizer),
                          parts.splits_special_tokens),
        vocabulary_size(std::int64_t{highest_id(model.vocabulary())} + 1) {
    for (const AddedToken& token : parts.added_tokens) {
      added_ids.emplace(token.content, token.id);
      vocabulary_size = std::max(vocabulary_size, std::int64_t{token.id} + 1);
      if (token.special) {
        special_ids.insert(token.id);
      }
    }
    add_tokens(model.vocabulary());
    add_tokens(added_ids);
  }

  void add_tokens(const Vocabulary& vocabulary) {
    for (const auto& [token, id] : vocabulary) {
      token_of.insert_or_assign(id, token);
    }
  }

  // `begins_text`: `raw_text` is the beginning of the text.
  void append_ids(std::string_view raw_text, bool begins_text, std::vector<TokenId>& ids) const {
    const std::string text = normalizer.normalize(raw_text);
    for (const TextSegment& segment : normalized_finder.split(text)) {
      if (segment.token) {
        ids.push_back(*segment.token);
        continue;
      }
      const bool begins = begins_text && segment.text.data() == text.data();
      for (const std::string& word : pre_tokenizer.words(segment.text, begins)) {
        model.append_ids(word, ids);
      }
    }
  }

  BpeModel model;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  TextDecoder decoder;
  AddedTokenFinder raw_finder;
  AddedTokenFinder normalized_finder;
  Vocabulary added_ids;
  std::unordered_set<TokenId> special_ids;
  std::unordered_map<TokenId, std::string_view> token_of;  // keys of the two vocabularies
  std::int64_t vocabulary_size;
};

struct Tokenizer::DecodeStream::State {
  const Impl& tokenizer;
  SpecialTokenText special;
  TextDecoder::Stream text;
};

Tokenizer Tokenizer::from_file(const std::filesystem::path& tokenizer_json) {
  return read_json_file(tokenizer_json, [](const JsonNode& root) {
    return from_parts(tokenizer_parts(root, std::nullopt));
  });
}

Tokenizer Tokenizer::from_parts(TokenizerParts parts) {
  return Tokenizer(std::make_unique<Impl>(std::move(parts)));
}

Tokenizer Tokenizer::from_gguf(const GgufVocabulary& vocabulary) {
  return from_parts(gguf_tokenizer_parts(vocabulary));
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
      impl_->append_ids(segment.text, segment.text.data() == text.data(), ids);
    }
  }
  return ids;
}

bool Tokenizer::is_special(TokenId id) const {
  return impl_->special_ids.contains(id);
}

std::string Tokenizer::decode(std::span<const TokenId> ids, SpecialTokenText special) const {
  DecodeStream stream = decode_stream(special);
  std::string text;
  for (const TokenId id : ids) {
    text += stream.push(id);
  }
  return text + stream.finish();
}

Tokenizer::DecodeStream Tokenizer::decode_stream(SpecialTokenText special) const {
  return DecodeStream(std::unique_ptr<DecodeStream::State>(
      new DecodeStream::State{*impl_, special, TextDecoder::Stream(impl_->decoder)}));
}

Tokenizer::DecodeStream::DecodeStream(std::unique_ptr<State> state) : state_(std::move(state)) {
}
Tokenizer::DecodeStream::~DecodeStream() = default;
Tokenizer::DecodeStream::DecodeStream(DecodeStream&&) noexcept = default;
Tokenizer::DecodeStream& Tokenizer::DecodeStream::operator=(DecodeStream&&) noexcept = default;

std::string Tokenizer::DecodeStream::push(TokenId id) {
  const Impl& tokenizer = state_->tokenizer;
  const auto token = tokenizer.token_of.find(id);
  const bool is_skipped =
      state_->special == SpecialTokenText::kSkipped && tokenizer.special_ids.contains(id);
  if (token == tokenizer.token_of.end() || is_skipped) {
    return "";
  }
  return state_->text.push(token->second);
}

std::string Tokenizer::DecodeStream::finish() {
  return state_->text.finish();
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
