// The content of a tokenizer.json, checked and in the terms of this folder.
#pragma once

#include <filesystem>
#include <vector>

#include "datasets/added_tokens.hpp"
#include "datasets/bpe_model.hpp"
#include "datasets/pre_tokenizer.hpp"

namespace bipo {

struct TokenizerParts {
  BpeModel model;
  bool normalize_nfc = false;
  PreTokenizer pre_tokenizer;
  std::vector<AddedToken> added_tokens;
};

// Throws UserError naming the file and the place in it for whatever is missing, malformed or not
// implemented.  Post-processor and decoder must be known but have no effect on ids without special
// tokens; truncation and padding are the caller's business, as they are in transformers.
TokenizerParts read_tokenizer_json(const std::filesystem::path& path);

}  // namespace bipo
