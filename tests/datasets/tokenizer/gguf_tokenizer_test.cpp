// Checks tokenizers made of GGUF metadata against ids worked out by hand, and what is refused.
#include "datasets/tokenizer/gguf_tokenizer.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <ostream>

#include "collectives/foundation/errors.hpp"
#include "datasets/tokenizer/tokenizer.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

using testing::error_of;
using Ids = std::vector<TokenId>;

// "_" stands in for U+2581 in what follows.
std::string with_stand_ins(std::string text) {
  for (std::size_t at = 0; (at = text.find('_', at)) != std::string::npos;) {
    text.replace(at, 1, "\u2581");
  }
  return text;
}

// abc can be made of ab + c and a + bc; bc has the higher score than ab.
GgufVocabulary sentencepiece() {
  GgufVocabulary vocabulary;
  vocabulary.model = "llama";
  for (const char* token :
       {"<unk>", "<s>", "<0xC3>", "<0xA9>", "_", "a", "b", "c", "ab", "bc", "abc", "_a"}) {
    vocabulary.tokens.push_back(with_stand_ins(token));
  }
  vocabulary.scores = {0, 0, 0, 0, -9, -9, -9, -9, -2, -1, -3, -4};
  vocabulary.token_type = {2, 3, 6, 6, 1, 1, 1, 1, 1, 1, 1, 1};
  return vocabulary;
}

GgufVocabulary byte_level() {
  GgufVocabulary vocabulary;
  vocabulary.model = "gpt2";
  vocabulary.pre = "gpt-2";
  vocabulary.tokens = {"a", "b", "Ġ", "ab", "Ġa", "<s>"};
  vocabulary.merges = {"a b", "Ġ a"};
  vocabulary.token_type = {1, 1, 1, 1, 1, 3};
  return vocabulary;
}

TEST(GgufTokenizer, SentencePieceMergesTheHighestScoreFirst) {
  GgufVocabulary vocabulary = sentencepiece();
  vocabulary.add_space_prefix = false;
  const Tokenizer tokenizer = Tokenizer::from_gguf(vocabulary);
  EXPECT_EQ(tokenizer.encode("abc"), (Ids{10}));  // bc first, then a + bc
  EXPECT_EQ(tokenizer.encode("abbc"), (Ids{8, 9}));
  EXPECT_EQ(tokenizer.encode(" a\u00E9z"), (Ids{11, 2, 3, 0}));
  EXPECT_EQ(tokenizer.encode("<s>a"), (Ids{1, 5}));
}

TEST(GgufTokenizer, SpacePrefixIsTheDefaultOfSentencePieceAndComesOffAgain) {
  const Tokenizer tokenizer = Tokenizer::from_gguf(sentencepiece());
  EXPECT_EQ(tokenizer.encode("a a"), (Ids{11, 11}));
  EXPECT_EQ(tokenizer.decode(Ids{11, 11}, SpecialTokenText::kKept), "a a");
  EXPECT_EQ(tokenizer.decode(Ids{1, 11, 2, 3}, SpecialTokenText::kSkipped), "a\u00E9");
}

TEST(GgufTokenizer, ByteLevelTakesMergesAndSpecialTokens) {
  const Tokenizer tokenizer = Tokenizer::from_gguf(byte_level());
  EXPECT_EQ(tokenizer.encode("ab a<s>b"), (Ids{3, 4, 5, 1}));
  EXPECT_EQ(tokenizer.decode(Ids{3, 4, 5}, SpecialTokenText::kKept), "ab a<s>");
  EXPECT_EQ(tokenizer.vocabulary_size(), 6);
}

struct BadVocabulary {
  std::string name;
  std::function<GgufVocabulary()> make;
  std::string complaint;
};

void PrintTo(const BadVocabulary& vocabulary, std::ostream* out) {
  *out << vocabulary.name;
}

class RefusedVocabularies : public ::testing::TestWithParam<BadVocabulary> {};

TEST_P(RefusedVocabularies, NameTheKey) {
  try {
    Tokenizer::from_gguf(GetParam().make());
    FAIL() << "accepted";
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find(GetParam().complaint), std::string::npos)
        << error.what();
  }
}

BadVocabulary bad(const std::string& name, GgufVocabulary vocabulary,
                  const std::function<void(GgufVocabulary&)>& damage,
                  const std::string& complaint) {
  damage(vocabulary);
  return {name, [vocabulary] { return vocabulary; }, complaint};
}

std::vector<BadVocabulary> bad_vocabularies() {
  const GgufVocabulary pieces = sentencepiece();
  const GgufVocabulary bytes = byte_level();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  return {
      bad(
          "Model", pieces, [](auto& v) { v.model = "bert"; }, "\"bert\""),
      bad(
          "Pre", bytes, [](auto& v) { v.pre = "odd"; }, "\"odd\""),
      bad(
          "NoTokens", pieces, [](auto& v) { v.tokens.clear(); }, "ggml.tokens"),
      bad(
          "TwiceTheSame", pieces, [](auto& v) { v.tokens[5] = "b"; }, "ids 5 and 6"),
      bad(
          "NotUtf8", pieces, [](auto& v) { v.tokens[5] = "\xFF"; }, "element 5"),
      bad(
          "LongToken", pieces, [](auto& v) { v.tokens[5] = std::string(9000, 'a'); }, "9000"),
      bad(
          "FewScores", pieces, [](auto& v) { v.scores.pop_back(); }, "ggml.scores"),
      bad(
          "NoScores", pieces, [](auto& v) { v.scores.clear(); }, "ggml.scores"),
      bad(
          "NanScore", pieces, [=](auto& v) { v.scores[7] = kNan; }, "token 7"),
      bad(
          "FewTypes", pieces, [](auto& v) { v.token_type.pop_back(); }, "ggml.token_type"),
      bad(
          "OddType", pieces, [](auto& v) { v.token_type[4] = 7; }, "7 of token 4"),
      bad(
          "EmptySpecial", pieces, [](auto& v) { v.tokens[1] = ""; }, "token 1"),
      bad(
          "Unknown", pieces, [](auto& v) { v.unknown_token_id = 12; }, "unknown_token_id"),
      bad(
          "NegativeUnknown", pieces, [](auto& v) { v.unknown_token_id = -1; }, "unknown_token_id"),
      bad(
          "NoMerges", bytes, [](auto& v) { v.merges.clear(); }, "ggml.merges"),
      bad(
          "OddMerge", bytes, [](auto& v) { v.merges[0] = "ab"; }, "\"ab\""),
      bad(
          "MergeOfUnknown", bytes, [](auto& v) { v.merges[0] = "a q"; }, "\"q\""),
      bad(
          "SpacePrefix", bytes, [](auto& v) { v.add_space_prefix = true; }, "add_space_prefix"),
  };
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, RefusedVocabularies, ::testing::ValuesIn(bad_vocabularies()),
                         [](const auto& test) { return test.param.name; });

TEST(GgufTokenizer, NamesOfPreTokenizersAreSynonymsOfFewRules) {
  const auto cut = [](const char* name) {
    GgufVocabulary vocabulary = byte_level();
    vocabulary.tokens = {"1", "2", "3", "4", "12", "34", "123", "1234"};
    vocabulary.merges = {"1 2", "3 4", "12 3", "12 34"};
    vocabulary.token_type.clear();
    vocabulary.pre = name;
    return Tokenizer::from_gguf(vocabulary).encode("1234");
  };
  for (const char* whole : {"gpt-2", "olmo", "mpt", "exaone4"}) {
    EXPECT_EQ(cut(whole), Ids{7}) << whole;
  }
  for (const char* threes : {"llama-bpe", "smaug-bpe", "llama3", "dbrx", "glm4", "gpt-4o", "llama4",
                             "deepseek-v3", "default", ""}) {
    EXPECT_EQ(cut(threes), (Ids{6, 3})) << threes;
  }
  for (const char* ones :
       {"qwen2", "deepseek-r1-qwen", "qwen35", "stablelm2", "smollm", "starcoder", "refact",
        "command-r", "tekken", "deepseek-coder", "seed-coder"}) {
    EXPECT_EQ(cut(ones), (Ids{0, 1, 2, 3})) << ones;
  }
  EXPECT_NE(error_of<UserError>([&] { cut("other"); }).find("llama-bpe, llama3"),
            std::string::npos);
}

TEST(GgufTokenizer, BosFollowsFromTheModelOrTheNameOfThePreTokenizer) {
  EXPECT_TRUE(gguf_begins_with_bos(sentencepiece()));
  GgufVocabulary vocabulary = byte_level();
  for (const char* name : {"llama-bpe", "llama3", "tekken", "falcon3", "pixtral"}) {
    vocabulary.pre = name;
    EXPECT_TRUE(gguf_begins_with_bos(vocabulary)) << name;
  }
  for (const char* name : {"gpt-2", "qwen2", "smaug-bpe", "dbrx", "gpt-4o", "default"}) {
    vocabulary.pre = name;
    EXPECT_FALSE(gguf_begins_with_bos(vocabulary)) << name;
  }
}

TEST(GgufTokenizer, EndTokensAreKnownByTheirText) {
  GgufVocabulary vocabulary;
  vocabulary.tokens = {"a", "<|im_end|>", "<|end|>", "<eos>", "</s>"};
  EXPECT_EQ(gguf_end_tokens(vocabulary), (Ids{1, 2, 3, 4}));
  // In OpenAI's harmony format <|end|> ends a message, and Gemma 4 has </s> as a text.
  vocabulary.tokens = {"<|end|>", "<|return|>", "<|call|>", "</s>", "<|tool_response>"};
  EXPECT_EQ(gguf_end_tokens(vocabulary), (Ids{1, 2, 4}));
}

// llama.cpp corrects the type of such a token, which a directory has as an added one.
TEST(GgufTokenizer, AnEndTokenIsSpecialWhateverTheConverterTookItFor) {
  GgufVocabulary vocabulary = byte_level();
  vocabulary.tokens.push_back("<|im_end|>");
  vocabulary.token_type.push_back(1);
  const Tokenizer tokenizer = Tokenizer::from_gguf(vocabulary);
  EXPECT_EQ(tokenizer.encode("a<|im_end|>"), (Ids{0, 6}));
  EXPECT_TRUE(tokenizer.is_special(6));
}

TEST(GgufTokenizer, Phi3sSpecialTokensTakeTheSpaceAfterThem) {
  GgufVocabulary vocabulary = sentencepiece();
  vocabulary.add_space_prefix = false;
  vocabulary.tokens[2] = "<|end|>";
  vocabulary.token_type[2] = 3;
  EXPECT_EQ(Tokenizer::from_gguf(vocabulary).encode("<|end|> a"), (Ids{2, 11}));
  vocabulary.special_tokens_strip_right = true;
  EXPECT_EQ(Tokenizer::from_gguf(vocabulary).encode("<|end|> a"), (Ids{2, 5}));
  EXPECT_EQ(Tokenizer::from_gguf(vocabulary).encode("<s> a"), (Ids{1, 11}));
}

}  // namespace
}  // namespace bipo
