// The parts of a tokenizer, and the files that describe them.
#pragma once

#include <filesystem>
#include <string_view>
#include <vector>

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
};

// Throws UserError naming the file and the place in it for anything missing, malformed or not
// implemented.  A post-processor must be known but has no effect on ids without special tokens;
// truncation and padding are left to the caller, as in transformers.
TokenizerParts read_tokenizer_json(const std::filesystem::path& path);

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
