// The pre-tokenizers that GGUF files know by name (tokenizer.ggml.pre).
#pragma once

#include <string_view>
#include <vector>

#include "datasets/tokenizer/normalizer.hpp"
#include "datasets/tokenizer/pre_tokenizer.hpp"

namespace bipo {

// What the tokenizer.json of the models behind a name says beside its vocabulary.
struct NamedPreTokenizer {
  std::vector<NormalizerStep> normalizer;
  std::vector<PreTokenizerStep> steps;
  bool ignore_merges = false;
};

// Throws UserError for a name that is not known, naming those that are.
NamedPreTokenizer gguf_pre_tokenizer(std::string_view name);

}  // namespace bipo
