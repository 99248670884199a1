// Makes a tokenizer of the vocabulary in a GGUF file's metadata.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "datasets/tokenizer/tokenizer_parts.hpp"

namespace bipo {

// The values under the keys tokenizer.ggml.*, as they stand in the file: nothing is trusted.
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

// A tokenizer with the ids and the text of the model's tokenizer.json.  What GGUF does not tell is
// taken as in most files: added tokens (control, user-defined and unknown ones) leave the white
// space beside them alone and are searched for in the text as it is.  Throws UserError naming the
// key for what is malformed or not implemented.
TokenizerParts gguf_tokenizer_parts(const GgufVocabulary& vocabulary);

}  // namespace bipo
