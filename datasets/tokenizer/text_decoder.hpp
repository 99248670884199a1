// Turns tokens back into text, one at a time: the decoder of a tokenizer.json.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "datasets/tokenizer/normalizer.hpp"

namespace bipo {

// Tokens <0x00> ... <0xFF> become the text of their bytes; a run that is not UTF-8 becomes one
// U+FFFD for each byte, also where a part of it would be.
struct ByteFallbackDecoding {};

// All tokens become one.
struct FuseDecoding {};

// Takes up to `start` and `stop` characters `content` off the ends of a token.
struct StripDecoding {
  std::string content;  // one character
  std::size_t start = 0;
  std::size_t stop = 0;
};

// Writes `replacement` as a space, or in the first token as nothing where `drops_first`.
struct MetaspaceDecoding {
  std::string replacement;  // one character
  bool drops_first = false;
};

// From the byte-level alphabet to text, all tokens together; what is not UTF-8 becomes U+FFFD by
// the Unicode standard's practice (one for each maximal subpart).
struct ByteLevelDecoding {};

using DecoderStep = std::variant<ReplaceStep, ByteFallbackDecoding, FuseDecoding, StripDecoding,
                                 MetaspaceDecoding, ByteLevelDecoding>;

class DecoderStage;

// Const members may be called from several threads at once.
class TextDecoder {
 public:
  // Without steps at all (nullopt) tokens are joined by spaces, as Hugging Face does.
  explicit TextDecoder(std::optional<std::vector<DecoderStep>> steps) : steps_(std::move(steps)) {}

  // The texts of all calls, in order, are what Hugging Face decodes the tokens to at once.  Each
  // gives as much as no later token can change: an unfinished character is held back, and so is a
  // whole run of ByteFallback's bytes, which one bad byte would spoil.
  class Stream {
   public:
    explicit Stream(const TextDecoder& decoder);  // which must outlive it
    ~Stream();
    Stream(Stream&&) noexcept;
    Stream& operator=(Stream&&) noexcept;

    // Throws UserError where the text becomes far longer than its tokens.
    std::string push(std::string_view token);  // well-formed UTF-8
    std::string finish();                      // what is held back; once, after the last token

   private:
    // What the stage makes of them.
    std::vector<std::string> push_all(DecoderStage& stage, std::vector<std::string>& tokens) const;

    std::vector<std::unique_ptr<DecoderStage>> stages_;
    std::size_t pushed_bytes_ = 0;
  };

 private:
  std::optional<std::vector<DecoderStep>> steps_;
};

}  // namespace bipo
