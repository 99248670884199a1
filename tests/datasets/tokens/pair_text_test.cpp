// How pairs are shown, against lines written by hand for a tokenizer with a token per character.
#include "datasets/tokens/pair_text.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "datasets/tokens/pair_checks.hpp"
#include "tests/datasets/character_model.hpp"

namespace bipo {
namespace {

using Texts = std::vector<std::string>;

using testing::ids;
using testing::kLineBreakThenA;

constexpr TokenId kFirstByte = 400;  // of a letter of two bytes
constexpr TokenId kSecondByte = 401;

class PairTextTest : public ::testing::Test {
 protected:
  PairTextTest()
      : path_(std::filesystem::temp_directory_path() /
              ("pair_text_" + std::to_string(::getpid()) + ".json")),
        tokenizer_(read()) {}
  ~PairTextTest() override { std::filesystem::remove(path_); }

  std::string bounded(const std::vector<TokenId>& tokens, std::size_t begin = 9,
                      std::size_t end = 9) const {
    return TokenText(tokenizer_).bounded(tokens, begin, end);
  }

  std::filesystem::path path_;
  Tokenizer tokenizer_;

 private:
  // The two bytes of U+00E9 are the tokens U+00C3 and U+00A9 of the byte-level alphabet.
  Tokenizer read() const {
    nlohmann::json tokenizer = testing::character_tokenizer();
    tokenizer["model"]["vocab"]["\u00c3"] = kFirstByte;
    tokenizer["model"]["vocab"]["\u00a9"] = kSecondByte;
    testing::write_json(path_, tokenizer);
    return Tokenizer::from_file(path_);
  }
};

TokenPair pair(const std::string& prompt, const std::string& chosen, const std::string& rejected) {
  return {ids(prompt), ids(chosen), ids(rejected), "pairs.csv:2"};
}

TEST_F(PairTextTest, ABarStandsBetweenTokens) {
  EXPECT_EQ(bounded({}), "");
  EXPECT_EQ(bounded(ids("A")), "A");
  EXPECT_EQ(bounded(ids("<A b>")), "<|im_start|>│A│ │b│<|im_end|>");
}

TEST_F(PairTextTest, ALineBreakOfATokenStaysOnTheLine) {
  EXPECT_EQ(bounded({'B', kLineBreakThenA, '\n', 'C'}), "B│\\nA│\\n│C");
}

TEST_F(PairTextTest, QuotesStandForThemselvesAndBackslashesAreDoubled) {
  EXPECT_EQ(bounded(ids("\"\\n\"")), "\"│\\\\│n│\"");
}

TEST_F(PairTextTest, ACharacterIsNotCut) {
  EXPECT_EQ(bounded({'a', kFirstByte, kSecondByte, 'b'}), "a│\u00e9│b");
  EXPECT_EQ(bounded({'a', kFirstByte}), "a│\ufffd");
}

TEST_F(PairTextTest, TheMiddleOfALongTextIsCounted) {
  EXPECT_EQ(bounded(ids("abcdefg"), 3, 2), "a│b│c│d│e│f│g");
  EXPECT_EQ(bounded(ids("abcdefgh"), 3, 2), "a│b│c ... 3 tokens ... g│h");
  EXPECT_EQ(bounded({'a', kFirstByte, kSecondByte, 'b', 'c', 'd'}, 1, 1), "a ... 4 tokens ... d");
}

TEST(PairOverview, CountsLengthsRepeatsAndEqualAnswers) {
  const std::vector<TokenPair> pairs = {pair("abc", "d", "efgh"), pair("a", "bb", "cc"),
                                        pair("abc", "d", "efgh"), pair("abcdef", "g", "g")};
  const RepeatCounts repeats = count_repeats(pairs);
  EXPECT_EQ(repeats.repeated, 1U);
  EXPECT_EQ(repeats.equal, 1U);
  // Prompts of 1, 3, 3, 6; chosen 1, 1, 1, 2; rejected 1, 2, 4, 4; both 3, 7, 7, 7.
  EXPECT_EQ(overview_lines("training pairs", pairs),
            (Texts{"training pairs: 4, 1 of them repeat an earlier one, 1 have equal answers",
                   "  tokens, median to most: prompt 3 to 6, chosen 1 to 2, rejected 3 to 4, "
                   "prompt and longer answer 7 to 7"}));
}

TEST_F(PairTextTest, AFirstPairIsItsThreeParts) {
  TokenPair shown = pair("<Hi>", "Yes", "N");
  shown.chosen_scored = {false, true, true};
  EXPECT_EQ(bounded_lines("first training pair", shown, tokenizer_),
            (Texts{"first training pair, pairs.csv:2; a bar stands between tokens",
                   "  prompt (4)            <|im_start|>│H│i│<|im_end|>",
                   "  chosen (3, 2 scored)  Y│e│s", "  rejected (1)          N"}));
}

}  // namespace
}  // namespace bipo
