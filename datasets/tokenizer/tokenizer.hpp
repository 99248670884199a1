// Text to token ids and back, by byte-pair encoding as a Hugging Face tokenizer.json describes it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "datasets/tokenizer/token_id.hpp"

namespace bipo {

struct GgufVocabulary;  // gguf_tokenizer.hpp
struct TokenizerParts;  // tokenizer_parts.hpp

// Whether decoded text shows the tokens that are listed as special.
enum class SpecialTokenText { kKept, kSkipped };

// Const members may be called from several threads at once.
class Tokenizer {
 public:
  // From a tokenizer.json alone, as Hugging Face tokenizers' Tokenizer.from_file(); the files
  // beside it can change the tokens: see read_directory_tokenizer().  Throws UserError for a file
  // that is missing, malformed or uses a component that is not implemented; the message names it,
  // nothing is ignored.
  static Tokenizer from_file(const std::filesystem::path& tokenizer_json);

  // From a GGUF file's metadata.  Throws UserError naming the key (but not the file).
  static Tokenizer from_gguf(const GgufVocabulary& vocabulary);

  // Throws UserError for an added token that would match anywhere.
  static Tokenizer from_parts(TokenizerParts parts);

  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // Returns the ids of `text` (UTF-8), equal to Hugging Face tokenizers' encode(text,
  // add_special_tokens=False): recognises added and special tokens in the text, adds no BOS or EOS.
  // Throws UserError for text that is not UTF-8, for a character that the tokenizer lacks if its
  // unk_token is not in the vocabulary, and if the rules (of a hostile file) make the text far
  // longer or take too long.
  std::vector<TokenId> encode(std::string_view text) const;

  // Returns the text of `ids`, equal to Hugging Face tokenizers' decode(ids, skip_special_tokens):
  // bytes that are not UTF-8 become U+FFFD.  Skips an id without a token (a padding row of the
  // model).
  std::string decode(std::span<const TokenId> ids, SpecialTokenText special) const;

  // Decodes ids one by one: the texts of all push() and of one finish() at the end together equal
  // decode()'s.  Holds back text that later ids could still change.  The tokenizer must outlive the
  // stream; moving it is allowed.
  class DecodeStream {
   public:
    ~DecodeStream();
    DecodeStream(DecodeStream&&) noexcept;
    DecodeStream& operator=(DecodeStream&&) noexcept;

    std::string push(TokenId id);
    std::string finish();

   private:
    friend class Tokenizer;
    struct State;
    explicit DecodeStream(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
  };
  DecodeStream decode_stream(SpecialTokenText special) const;

  // Returns the id of one token by its exact content, special or not.
  std::optional<TokenId> token_id(std::string_view token) const;

  // Whether decoding can omit the token.
  bool is_special(TokenId id) const;

  // Highest id + 1, added tokens included.
  std::int64_t vocabulary_size() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// A model's begin- and end-of-sequence ids.
struct SpecialTokens {
  std::optional<TokenId> bos;
  std::optional<TokenId> eos;
  std::vector<TokenId> ends = {};           // further tokens that end a generated text
  std::vector<TokenId> before_text = {};    // put by the tokenizer itself before a plain text
  std::vector<TokenId> after_text = {};     // and after it
  std::optional<TokenId> earlier_bos = {};  // what version 0.1 put before every prompt
};

}  // namespace bipo
