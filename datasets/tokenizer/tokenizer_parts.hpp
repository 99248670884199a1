// What a tokenizer is made of, whichever file describes it.
#pragma once

#include <vector>

#include "datasets/tokenizer/added_tokens.hpp"
#include "datasets/tokenizer/bpe_model.hpp"
#include "datasets/tokenizer/normalizer.hpp"
#include "datasets/tokenizer/pre_tokenizer.hpp"
#include "datasets/tokenizer/text_decoder.hpp"

namespace bipo {

struct TokenizerParts {
  BpeModel model;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  TextDecoder decoder;
  std::vector<AddedToken> added_tokens;
};

}  // namespace bipo
