// The vocabulary in a GGUF file's metadata.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

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
};

}  // namespace bipo
