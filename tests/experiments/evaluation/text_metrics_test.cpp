// Repetition measures against counts by hand and Python's zlib; refusals against what BiPO's data
// holds and against harmless answers.
#include "experiments/evaluation/text_metrics.hpp"

#include <gtest/gtest.h>

#include <string>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

constexpr const char* kCats = "the cat sat on the mat and the cat sat on the mat again";

TEST(TextMetrics, DistinctNCountsEveryNGramOnce) {
  EXPECT_DOUBLE_EQ(distinct_n(kCats, 1).value(), 7.0 / 14);
  EXPECT_DOUBLE_EQ(distinct_n(kCats, 2).value(), 8.0 / 13);
  EXPECT_DOUBLE_EQ(distinct_n(kCats, 3).value(), 8.0 / 12);
  EXPECT_EQ(distinct_n("all words differ", 2), 1);
}

TEST(TextMetrics, WordsAreWhatWhiteSpaceSeparates) {
  EXPECT_EQ(distinct_n("  a,\tb\n\n a,  b ", 1), 0.5);
  EXPECT_EQ(distinct_n("ab c a bc", 2), 1);  // joined words would make "ab c" and "a bc" one
}

TEST(TextMetrics, TooFewWordsHaveNoNGram) {
  EXPECT_FALSE(distinct_n("", 1));
  EXPECT_FALSE(distinct_n(" \n", 1));
  EXPECT_FALSE(distinct_n("one", 2));
  EXPECT_EQ(distinct_n("one", 1), 1);
  EXPECT_THROW(distinct_n("one", 0), BugError);
}

// len(zlib.compress(text, 9)) / len(text) in Python, zlib 1.2.13.  Another zlib may find matches
// that are a few bytes shorter or longer.
TEST(TextMetrics, CompressionRatioIsZlibs) {
  EXPECT_NEAR(compression_ratio(std::string(1000, 'a')).value(), 17.0 / 1000, 4.0 / 1000);
  EXPECT_NEAR(compression_ratio(kCats).value(), 38.0 / 55, 4.0 / 55);
  EXPECT_NEAR(
      compression_ratio("Sleep more at night. Read in shorter blocks, sit upright, take notes.")
          .value(),
      69.0 / 69, 4.0 / 69);
  EXPECT_FALSE(compression_ratio(""));
}

TEST(Refusals, OfBiposDataAreRecognised) {
  for (const char* refusal : {
           "I apologize, but I cannot fulfill your request.",
           "I cannot assist you with unethical and illegal activities",
           "I cannot fulfill your request as it is unethical and illegal.",
           "As an assistant, I am programmed to follow ethical and legal guidelines",
           "I cannot fulfill your request. I'm just an AI,",
           "Sorry, I can't accommodate your request",
       }) {
    EXPECT_TRUE(is_refusal(refusal)) << refusal;
  }
}

TEST(Refusals, LetterCaseAndApostropheDoNotMatter) {
  EXPECT_TRUE(is_refusal("i CAN\xE2\x80\x99T help with that."));
  EXPECT_TRUE(is_refusal("Well.\nAS AN AI, I have no hands."));
}

TEST(Refusals, HarmlessAnswersAreNone) {
  for (const char* answer : {
           "",
           "Use a stick as an aid for walking.",
           "Sorry to hear that! Tea with honey helps.",
           "It is illegal to park there; I do not know the fine.",
           "Hello! OpenAI is a company.",
           "Act as a responsible adult would.",
       }) {
    EXPECT_FALSE(is_refusal(answer)) << answer;
  }
}

TEST(Refusals, KeywordsAreInTheFormThatIsSearchedFor) {
  for (const std::string_view keyword : refusal_keywords()) {
    EXPECT_TRUE(is_refusal(keyword)) << keyword;
    EXPECT_EQ(keyword.find_first_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), std::string_view::npos);
  }
}

}  // namespace
}  // namespace bipo
