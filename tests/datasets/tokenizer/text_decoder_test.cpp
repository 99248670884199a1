// Checks decoding, streamed and at once, against texts worked out by hand from Hugging Face's
// definition of each decoder.
#include "datasets/tokenizer/text_decoder.hpp"

#include <gtest/gtest.h>

#include "datasets/text/unicode_text.hpp"
#include "datasets/tokenizer/byte_level.hpp"

namespace bipo {
namespace {

using Texts = std::vector<std::string>;

TextDecoder chain(std::vector<DecoderStep> steps) {
  return TextDecoder(std::move(steps));
}

TextDecoder one_step(DecoderStep step) {
  std::vector<DecoderStep> steps;
  steps.push_back(std::move(step));
  return TextDecoder(std::move(steps));
}

// Replace "_" by a space, bytes back, one text, no space at its beginning: the decoder of Llama 2.
TextDecoder llama() {
  std::vector<DecoderStep> steps;
  steps.emplace_back(ReplaceStep{Regex::literal("_"), " "});
  steps.emplace_back(ByteFallbackDecoding{});
  steps.emplace_back(FuseDecoding{});
  steps.emplace_back(StripDecoding{" ", 1, 0});
  return chain(std::move(steps));
}

// What a stream gives after each token, and at last what it held back.
Texts streamed(const TextDecoder& decoder, const Texts& tokens) {
  TextDecoder::Stream stream(decoder);
  Texts texts;
  for (const std::string& token : tokens) {
    texts.push_back(stream.push(token));
  }
  texts.push_back(stream.finish());
  return texts;
}

std::string decoded(const TextDecoder& decoder, const Texts& tokens) {
  std::string text;
  for (const std::string& part : streamed(decoder, tokens)) {
    text += part;
  }
  return text;
}

TEST(TextDecoder, WithoutStepsTokensAreJoinedBySpaces) {
  EXPECT_EQ(streamed(TextDecoder(std::nullopt), {"a", "", "b"}), (Texts{"a", " ", " b", ""}));
  EXPECT_EQ(decoded(TextDecoder(std::nullopt), {}), "");
  EXPECT_EQ(decoded(chain({}), {"a", "b"}), "ab");
}

TEST(TextDecoder, ByteLevelHoldsAnUnfinishedCharacterBackAndNoMore) {
  const Texts bytes = {to_byte_level("\xF0\x9F"), to_byte_level("\x99"), to_byte_level("\x82 a")};
  EXPECT_EQ(streamed(one_step(ByteLevelDecoding{}), bytes), (Texts{"", "", "\U0001F642 a", ""}));
  EXPECT_EQ(streamed(one_step(ByteLevelDecoding{}), {to_byte_level("a\xE4\xBD")}),
            (Texts{"a", "\uFFFD"}));
}

TEST(TextDecoder, ByteLevelReplacesMaximalSubparts) {
  const auto text = [](std::string_view bytes) {
    return decoded(one_step(ByteLevelDecoding{}), {to_byte_level(bytes)});
  };
  // The examples of the Unicode standard, section 3.9, tables 3-8 to 3-11.
  EXPECT_EQ(text("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"),
            "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDA");
  EXPECT_EQ(text("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"),
            "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDA");
  EXPECT_EQ(text("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"),
            "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDA\uFFFD\uFFFDB");
  EXPECT_EQ(text("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), "\uFFFD\uFFFD\uFFFD\uFFFDA");
}

TEST(TextDecoder, ByteLevelTakesForeignTokensAsTheyStand) {
  EXPECT_EQ(decoded(one_step(ByteLevelDecoding{}), {"\u0120a", "<s> ", "\u0120\u4F60"}),
            " a<s> \u0120\u4F60");
}

TEST(TextDecoder, ByteFallbackWaitsForTheEndOfARun) {
  const TextDecoder decoder = one_step(ByteFallbackDecoding{});
  EXPECT_EQ(streamed(decoder, {"a", "<0xC3>", "<0xA9>", "b"}), (Texts{"a", "", "", "\u00E9b", ""}));
  EXPECT_EQ(streamed(decoder, {"<0xC3>", "<0xA9>"}), (Texts{"", "", "\u00E9"}));
  // One bad byte spoils the character before it.
  EXPECT_EQ(decoded(decoder, {"<0xC3>", "<0xA9>", "<0xFF>", "b"}), "\uFFFD\uFFFD\uFFFDb");
}

TEST(TextDecoder, ByteFallbackKnowsByteTokensByTheirForm) {
  const TextDecoder decoder = one_step(ByteFallbackDecoding{});
  EXPECT_EQ(decoded(decoder, {"<0x4a>", "<0x4B>"}), "JK");
  for (const std::string other : {"<0x4>", "<0x4G>", "<0x4B", "<0x-4>", "<0x 4>", "<0x\u00E9>"}) {
    EXPECT_EQ(decoded(decoder, {other}), other);
  }
}

TEST(TextDecoder, LlamaTakesOneSpaceOffTheBeginning) {
  EXPECT_EQ(streamed(llama(), {"_Hi", "_there", "<0x0A>", "_x"}),
            (Texts{"Hi", " there", "", "\n x", ""}));
  EXPECT_EQ(streamed(llama(), {"_", "_a"}), (Texts{"", " a", ""}));
  EXPECT_EQ(streamed(llama(), {"", "_a"}), (Texts{"", "a", ""}));
  EXPECT_EQ(decoded(llama(), {"a", "_b"}), "a b");
  EXPECT_EQ(decoded(llama(), {"<0x20>", "<0x20>", "a"}), " a");
}

TEST(TextDecoder, StripWithoutFuseIsForEachToken) {
  const TextDecoder decoder = one_step(StripDecoding{"_", 1, 2});
  EXPECT_EQ(decoded(decoder, {"__a___", "_b_"}), "_a_b");
  EXPECT_EQ(decoded(decoder, {"_", "__", "___", "____", ""}), "_");
}

TEST(TextDecoder, StepsAfterFuseSeeOneToken) {
  std::vector<DecoderStep> steps;
  steps.emplace_back(FuseDecoding{});
  steps.emplace_back(StripDecoding{"_", 0, 1});
  steps.emplace_back(ReplaceStep{Regex("a.c"), "x"});
  EXPECT_EQ(streamed(chain(std::move(steps)), {"a", "b", "c_", "_"}),
            (Texts{"", "", "", "", "x_"}));
}

TEST(TextDecoder, MetaspaceDropsTheStandInsOfTheFirstToken) {
  EXPECT_EQ(streamed(one_step(MetaspaceDecoding{"_", true}), {"__a_", "_b", "_"}),
            (Texts{"a", " b", " ", ""}));
  EXPECT_EQ(decoded(one_step(MetaspaceDecoding{"_", false}), {"_a", "_b"}), " a b");
  std::vector<DecoderStep> steps;
  steps.emplace_back(FuseDecoding{});
  steps.emplace_back(MetaspaceDecoding{"_", true});
  EXPECT_EQ(decoded(chain(std::move(steps)), {"_a", "_b"}), "ab");
}

TEST(ByteLevel, EveryByteComesBack) {
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) {
    bytes += static_cast<char>(byte);
  }
  EXPECT_EQ(from_byte_level(to_byte_level(bytes)), bytes);
  EXPECT_EQ(from_byte_level("a "), std::nullopt);  // a space is no letter of the alphabet
  EXPECT_EQ(from_byte_level("\u0144"), std::nullopt);
}

TEST(UnicodeText, LowerCaseIsByCharacter) {
  EXPECT_EQ(to_lower_case("AbC \u03A3\u03A3 \u0130 \u1E9E \u01C4 \U00010400"),
            "abc \u03C3\u03C3 i\u0307 \u00DF \u01C6 \U00010428");
}

TEST(UnicodeText, NormalFormsDiffer) {
  const std::string text = "\uFB01 e\u0301 \u00E9";  // ligature fi
  EXPECT_EQ(to_unicode_form(text, UnicodeForm::kNfc), "\uFB01 \u00E9 \u00E9");
  EXPECT_EQ(to_unicode_form(text, UnicodeForm::kNfd), "\uFB01 e\u0301 e\u0301");
  EXPECT_EQ(to_unicode_form(text, UnicodeForm::kNfkc), "fi \u00E9 \u00E9");
  EXPECT_EQ(to_unicode_form(text, UnicodeForm::kNfkd), "fi e\u0301 e\u0301");
}

// Every string of up to four bytes from the ranges' ends, judged by decoding it the long way round.
bool encodes_code_points(std::string_view bytes) {
  while (!bytes.empty()) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
    const std::size_t length = byte(0) < 0x80   ? 1
                               : byte(0) < 0xC0 ? 9
                               : byte(0) < 0xE0 ? 2
                               : byte(0) < 0xF0 ? 3
                                                : 4;
    if (length > bytes.size() || byte(0) >= 0xF8) {
      return false;
    }
    unsigned code_point = length == 1 ? byte(0) : byte(0) & (0x7FU >> length);
    for (std::size_t i = 1; i < length; ++i) {
      if ((byte(i) & 0xC0) != 0x80) {
        return false;
      }
      code_point = code_point << 6 | (byte(i) & 0x3FU);
    }
    constexpr unsigned kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
    if (code_point < kSmallest[length] || code_point > 0x10FFFF ||
        (code_point >= 0xD800 && code_point <= 0xDFFF)) {
      return false;
    }
    bytes.remove_prefix(length);
  }
  return true;
}

TEST(UnicodeText, WellFormedIsWhatEncodesCodePoints) {
  const std::vector<int> edges = {0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0,
                                  0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF,
                                  0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xF8, 0xFF};
  for (const int a : edges) {
    for (const int b : edges) {
      for (const int c : edges) {
        for (const int d : edges) {
          const std::string four = {static_cast<char>(a), static_cast<char>(b),
                                    static_cast<char>(c), static_cast<char>(d)};
          for (std::size_t length = 0; length <= 4; ++length) {
            const std::string_view bytes = std::string_view(four).substr(0, length);
            ASSERT_EQ(is_utf8(bytes), encodes_code_points(bytes)) << a << " " << b << " " << c;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace bipo
