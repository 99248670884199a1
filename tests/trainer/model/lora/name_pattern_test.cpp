#include "trainer/model/lora/name_pattern.hpp"

#include <gtest/gtest.h>

#include <string>

#include "collectives/foundation/errors.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

const std::string kName = "model.layers.11.self_attn.q_proj";

TEST(NamePattern, WholeMatchesTheWholeName) {
  EXPECT_TRUE(NamePattern::whole(R"(.*\.q_proj)").matches(kName));
  EXPECT_TRUE(NamePattern::whole("lm_head|.*q_proj").matches(kName));
  EXPECT_FALSE(NamePattern::whole("q_proj").matches(kName));
  EXPECT_FALSE(NamePattern::whole("model.*q_pro").matches(kName));
}

TEST(NamePattern, EndingMatchesAfterADotOrFromTheStart) {
  EXPECT_TRUE(NamePattern::ending("q_proj").matches(kName));
  EXPECT_TRUE(NamePattern::ending("q.proj").matches(kName));
  EXPECT_TRUE(NamePattern::ending(R"(^model\..*)").matches(kName));
  EXPECT_TRUE(NamePattern::ending("k_proj|q_proj").matches(kName));
  EXPECT_FALSE(NamePattern::ending("^q_proj").matches(kName));
  EXPECT_FALSE(NamePattern::ending("proj").matches(kName));
  EXPECT_FALSE(NamePattern::ending("layers.1.self_attn.q_proj").matches(kName));
}

TEST(NamePattern, BeforeBlockMatchesTheNameInFrontOfANumber) {
  EXPECT_TRUE(NamePattern::before_block("layers").matches(kName));
  EXPECT_TRUE(NamePattern::before_block("l.+s").matches(kName));
  EXPECT_FALSE(NamePattern::before_block("yers").matches(kName));
  EXPECT_FALSE(NamePattern::before_block("layers").matches("lm_head"));
}

TEST(NamePattern, CountsAreThoseOfPython) {
  EXPECT_EQ(python_to_pcre2("a{,3}b{2}c{1,}d{,}", true), "a{0,3}b{2}c{1,}d{0,}");
  EXPECT_EQ(python_to_pcre2("a{ 1}{}{x}", true), R"(a\{ 1}\{}\{x})");
}

TEST(NamePattern, TheVeryEndIsWrittenInAnotherWay) {
  EXPECT_EQ(python_to_pcre2(R"(a\Z[\w\]])", true), R"(a\z[\w\]])");
}

TEST(NamePattern, FlagsForTheRestAreOfWholeExpressionsOnly) {
  EXPECT_TRUE(NamePattern::whole("(?i)MODEL.*").matches(kName));
  EXPECT_TRUE(NamePattern::ending("(?i:Q)_proj").matches(kName));
  testing::expect_parts(testing::error_of<UserError>([] { NamePattern::ending("(?i)q_proj"); }),
                        {"(?i)q_proj", "(?i)", "byte 0"});
}

TEST(NamePattern, WhatIsReadInTwoWaysIsRefusedByName) {
  for (const auto& [expression, construct] : {std::pair{R"(a\h)", "\\h"},
                                              {"[[:alpha:]]", "class"},
                                              {"a(?R)", "(?R"},
                                              {R"(\12)", "octal"},
                                              {"(*UTF)a", "(*"},
                                              {"(?<n>a)", "(?<"}}) {
    testing::expect_parts(testing::error_of<UserError>([&] { NamePattern::whole(expression); }),
                          {expression, construct, "not supported"});
  }
}

}  // namespace
}  // namespace bipo
