// What a tokenizer is made of, whichever file describes it.
#pragma once

#include <vector>

#include "datasets/added_tokens.hpp"
#include "datasets/bpe_model.hpp"
#include "datasets/normalizer.hpp"
#include "datasets/pre_tokenizer.hpp"
#include "datasets/text_decoder.hpp"

namespace bipo {

struct TokenizerParts {
  BpeModel model;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  TextDecoder decoder;
  std::vector<AddedToken> added_tokens;
};

}  // namespace bipo
