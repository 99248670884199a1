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

// Turns tokens <0x00> ... <0xFF> into the text of their bytes; a run that is not UTF-8 as a whole
// becomes one U+FFFD for each byte.
struct ByteFallbackDecoding {};

// All tokens become one.
struct FuseDecoding {};

// Removes up to `start` and `stop` characters `content` from the ends of a token.
struct StripDecoding {
  std::string content;  // one character
  std::size_t start = 0;
  std::size_t stop = 0;
};

// Writes `replacement` as a space, or as nothing in the first token if `drops_first`.
struct MetaspaceDecoding {
  std::string replacement;  // one character
  bool drops_first = false;
};

// Decodes the byte-level alphabet, all tokens together; bytes that are not UTF-8 become U+FFFD by
// the Unicode standard's practice (one for each maximal subpart).
struct ByteLevelDecoding {};

using DecoderStep = std::variant<ReplaceStep, ByteFallbackDecoding, FuseDecoding, StripDecoding,
                                 MetaspaceDecoding, ByteLevelDecoding>;

class DecoderStage;

// Const members may be called from several threads at once.
class TextDecoder {
 public:
  // Without a decoder (nullopt), joins tokens by spaces, as Hugging Face does.
  explicit TextDecoder(std::optional<std::vector<DecoderStep>> steps) : steps_(std::move(steps)) {}

  // The texts of all calls together equal Hugging Face's decoding of all tokens at once.  Each call
  // returns the text that no later token can change: it holds back an unfinished character, and a
  // whole run of ByteFallback's bytes, which one bad byte would change.
  class Stream {
   public:
    explicit Stream(const TextDecoder& decoder);  // the decoder must outlive the stream
    ~Stream();
    Stream(Stream&&) noexcept;
    Stream& operator=(Stream&&) noexcept;

    // Throws UserError if the text becomes far longer than its tokens.
    std::string push(std::string_view token);  // well-formed UTF-8
    std::string finish();                      // text held back; call once, after the last token

   private:
    std::vector<std::string> push_all(DecoderStage& stage, std::vector<std::string>& tokens) const;

    std::vector<std::unique_ptr<DecoderStage>> stages_;
    std::size_t pushed_bytes_ = 0;
  };

 private:
  std::optional<std::vector<DecoderStep>> steps_;
};

}  // namespace bipo
