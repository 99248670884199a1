// Byte-level BPE as described by a Hugging Face tokenizer.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bipo {

using TokenId = std::int32_t;

class Tokenizer {
 public:
  // Throws UserError for a file that is missing, malformed or uses a component that is not
  // implemented (it is named: nothing is ever ignored).
  static Tokenizer from_file(const std::filesystem::path& tokenizer_json);

  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // Ids of `text` (UTF-8), equal to Hugging Face tokenizers' encode(text,
  // add_special_tokens=False): added and special tokens that stand in the text are recognised, no
  // BOS or EOS is added.
  std::vector<TokenId> encode(std::string_view text) const;

  // Id of one token by its exact content, special or not.
  std::optional<TokenId> token_id(std::string_view token) const;

  // Highest id + 1, added tokens included.
  std::int64_t vocabulary_size() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Begin- and end-of-sequence ids of a model directory.
struct SpecialTokens {
  std::optional<TokenId> bos;
  std::optional<TokenId> eos;
};

// From tokenizer_config.json's bos_token / eos_token (a string, or an object with "content"); only
// where that file is absent from generation_config.json's, then config.json's bos_token_id /
// eos_token_id (the first of a list).  Throws UserError when a named token is not in the
// vocabulary.
SpecialTokens read_special_tokens(const std::filesystem::path& model_directory,
                                  const Tokenizer& tokenizer);

}  // namespace bipo
