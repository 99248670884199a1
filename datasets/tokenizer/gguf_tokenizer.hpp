// The vocabulary in a GGUF file's metadata.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "datasets/tokenizer/token_id.hpp"

namespace bipo {

// The values under the keys tokenizer.ggml.*, unchecked.
struct GgufVocabulary {
  std::string model;                     // "gpt2" (byte-level BPE) or "llama" (SentencePiece)
  std::string pre;                       // name of the pre-tokenizer, for gpt2
  std::vector<std::string> tokens;       // by id
  std::vector<std::string> merges;       // "left right", for gpt2
  std::vector<float> scores;             // by id, for llama
  std::vector<std::int64_t> token_type;  // by id; empty: all normal
  std::optional<bool> add_space_prefix;  // without the key: true for llama, false for gpt2
  std::optional<std::int64_t> unknown_token_id;
  // Phi-3's special tokens take the white space after them, which no key says: llama.cpp knows it
  // by the model's name.
  bool special_tokens_strip_right = false;
};

// Whether llama.cpp puts BOS before a text where no key says so: by the kind of model, or by the
// name of the pre-tokenizer.
bool gguf_begins_with_bos(const GgufVocabulary& vocabulary);

// Returns the ids of the tokens that end a generated text whatever the keys say: those with a text
// that llama.cpp (llama-vocab.cpp) knows as an end of generation.
std::vector<TokenId> gguf_end_tokens(const GgufVocabulary& vocabulary);

}  // namespace bipo
