// The parts of a tokenizer, and the files that describe them.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "datasets/text/untrusted_json.hpp"
#include "datasets/tokenizer/added_tokens.hpp"
#include "datasets/tokenizer/bpe_model.hpp"
#include "datasets/tokenizer/normalizer.hpp"
#include "datasets/tokenizer/pre_tokenizer.hpp"
#include "datasets/tokenizer/text_decoder.hpp"

namespace bipo {

struct GgufVocabulary;  // gguf_tokenizer.hpp

struct TokenizerParts {
  BpeModel model;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  TextDecoder decoder;
  std::vector<AddedToken> added_tokens;
  bool splits_special_tokens = false;  // special tokens in a text are text
};

// The components that take the place of tokenizer.json's own, as JSON in its form.
struct RebuiltComponents {
  nlohmann::json root;   // normalizer, pre_tokenizer and decoder
  nlohmann::json model;  // all settings of the model but vocabulary and merges
};

// Reads a whole tokenizer.json.  Throws UserError naming the place for anything missing, malformed
// or not implemented.  A post-processor must be known but has no effect on ids without special
// tokens; truncation and padding are left to the caller, as in transformers.
TokenizerParts tokenizer_parts(const JsonNode& root,
                               const std::optional<RebuiltComponents>& rebuilt);

// Lists added_tokens as the file has them, with the file's ids.
std::vector<AddedToken> listed_added_tokens(const JsonNode& root);

// The special tokens that a tokenizer.json's post-processor puts around a single text.
struct SurroundingTokens {
  std::vector<TokenId> before;
  std::vector<TokenId> after;

  bool operator==(const SurroundingTokens&) const = default;
};
SurroundingTokens read_post_processor(const JsonNode& root);

// Makes a tokenizer with the ids and the text of the model's tokenizer.json.  GGUF lacks some
// settings, which are assumed as in most files: added tokens (control, user-defined and unknown
// ones) keep the white space beside them and are found in the text before normalisation.  Throws
// UserError naming the key for anything malformed or not implemented.
TokenizerParts gguf_tokenizer_parts(const GgufVocabulary& vocabulary);

// The parts of the tokenizer.json that a GGUF file knows by the name tokenizer.ggml.pre.
struct NamedPreTokenizer {
  std::vector<NormalizerStep> normalizer;
  std::vector<PreTokenizerStep> steps;
  bool ignore_merges = false;
};

// Throws UserError for an unknown name; the message lists the known ones.
NamedPreTokenizer gguf_pre_tokenizer(std::string_view name);

}  // namespace bipo
