// Files of pairs as token pairs of a model directory: what is read, what is left out with a
// warning, what is refused.
#include "datasets/tokens/pair_tokenizer.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "collectives/foundation/errors.hpp"
#include "datasets/tokens/pair_checks.hpp"
#include "tests/datasets/character_model.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

using testing::ids;
using testing::kChatMl;
using testing::kTurnEnd;
using testing::without_system_turns;
using testing::write_character_model;

constexpr std::int64_t kVocabulary = 303;

class PairTokenizerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    directory_ = std::filesystem::path(::testing::TempDir()) / ("bipo_pair_tokenizer_" + name);
    std::filesystem::create_directories(directory_);
    write_character_model(directory_, kChatMl);
    options_.max_length = 1000;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::filesystem::path write_rows(const std::string& rows) const {
    const std::filesystem::path path = directory_ / "pairs.csv";
    std::ofstream(path) << "question,matching,not_matching\n" << rows;
    return path;
  }

  PairTokenizer tokenizer(std::int64_t vocabulary = kVocabulary) const {
    return PairTokenizer(read_model_text(directory_), template_, vocabulary, options_);
  }

  std::filesystem::path directory_;
  TokenizeOptions options_;
  ChatTemplateSettings template_{"auto", testing::kSomeDate};
};

TEST_F(PairTokenizerTest, ReadsAFileAsTheModelsOwnFilesSay) {
  options_.system_prompt = "be kind";
  const TokenizedFile file = tokenizer().read(write_rows("q,yes,no\n"));
  ASSERT_EQ(file.pairs.size(), 1U);
  // BOS and EOS are those that tokenizer_config.json names.
  EXPECT_EQ(file.pairs[0].prompt, ids("<system\nbe kind>\n<user\nq>\n<assistant\n"));
  EXPECT_EQ(file.pairs[0].chosen, ids("yes>"));
  EXPECT_EQ(file.pairs[0].rejected, ids("no>"));
  EXPECT_TRUE(file.warnings.empty());
  EXPECT_EQ(tokenizer().template_name(), "chatml");
}

TEST_F(PairTokenizerTest, ThreadsChangeNothing) {
  options_.max_length = 60;
  std::string rows;
  for (int i = 0; i < 2000; ++i) {
    rows += "q" + std::to_string(i) + ",yes,no\n";
  }
  const std::string too_long = "q," + std::string(60, 'y') + ",n\n";
  const std::filesystem::path path = write_rows(rows + too_long + rows + too_long + rows);
  const std::string first = path.string() + ":2002:";
  const auto refusal = [&] {
    try {
      tokenizer().read(path);
    } catch (const UserError& error) {
      return std::string(error.what());
    }
    return std::string("not refused");
  };
  const std::string expected = refusal();
  EXPECT_TRUE(expected.starts_with(first)) << expected;
  options_.bad_rows = BadRows::kSkip;
  const TokenizedFile alone = tokenizer().read(path);
  ASSERT_EQ(alone.pairs.size(), 6000U);

  options_.threads = 4;
  for (int repeat = 0; repeat < 5; ++repeat) {
    options_.bad_rows = BadRows::kRefuse;
    EXPECT_EQ(refusal(), expected);
    options_.bad_rows = BadRows::kSkip;
    const TokenizedFile together = tokenizer().read(path);
    EXPECT_EQ(together.warnings, alone.warnings);
    ASSERT_EQ(together.pairs.size(), alone.pairs.size());
    EXPECT_EQ(tokens_hash(together.pairs), tokens_hash(alone.pairs));
    EXPECT_EQ(together.pairs[4000].where, alone.pairs[4000].where);
  }
}

// Seven rows without an answer, then two whose pairs are too long.
TEST_F(PairTokenizerTest, WarnsOfTheFirstRowsLeftOutAndCountsTheOthers) {
  options_.bad_rows = BadRows::kSkip;
  options_.max_length = 30;
  std::string rows = "q,y,n\n";
  for (int i = 0; i < 7; ++i) {
    rows += "q,,n\n";
  }
  rows += "q,a very long answer indeed,n\nq,n,a very long answer indeed\n";
  const TokenizedFile file = tokenizer().read(write_rows(rows));
  EXPECT_EQ(file.pairs.size(), 1U);
  ASSERT_EQ(file.warnings.size(), 8U);
  const auto begins_with = [&](std::size_t i, int line) {
    return file.warnings[i].starts_with("left out: " + (directory_ / "pairs.csv").string() + ":" +
                                        std::to_string(line) + ":");
  };
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_TRUE(begins_with(i, static_cast<int>(i) + 3)) << file.warnings[i];
  }
  EXPECT_EQ(file.warnings[5], "left out: 2 rows more");
  EXPECT_TRUE(begins_with(6, 10)) << file.warnings[6];
  EXPECT_TRUE(begins_with(7, 11)) << file.warnings[7];
}

TEST_F(PairTokenizerTest, CountsEqualAnswersAndRepeats) {
  const auto path = write_rows("q,y,n\nq,y,y\nr,y,n\nq,y,n\nq,y,n\n");
  const std::string file = path.string();
  const TokenizedFile read = tokenizer().read(path);
  ASSERT_EQ(read.warnings.size(), 2U);
  testing::expect_parts(read.warnings[0], {file + ": chosen and rejected are equal in 1 of 5 pairs",
                                           "the first: " + file + ":3"});
  testing::expect_parts(read.warnings[1], {file + ": 2 of 5 pairs repeat an earlier one",
                                           "the first: " + file + ":5 is " + file + ":2 again"});
  testing::expect_parts(read.understood, {file + ": 5 rows of the form question/matching"});
  RowOptions strict;
  strict.on_duplicate = OnDuplicate::kError;
  testing::expect_parts(testing::error_of<UserError>([&] { tokenizer().read(path, strict); }),
                        {"are equal in 1 of 5 pairs", "--on-duplicate error"});
  EXPECT_TRUE(tokenizer().read(write_rows("q,y,n\nr,y,n\n"), strict).warnings.empty());
}

TEST_F(PairTokenizerTest, CountsPairsThatTwoFilesShare) {
  const std::vector<TokenPair> train = tokenizer().read(write_rows("q,y,n\nr,y,n\nq,y,n\n")).pairs;
  const std::vector<TokenPair> test = tokenizer().read(write_rows("s,y,n\nq,y,n\nr,n,y\n")).pairs;
  const std::vector<std::string> lines = shared_pair_lines(train, test);
  ASSERT_EQ(lines.size(), 1U);
  testing::expect_parts(lines[0], {"1 of 3 held-out pairs is trained on", ":3 is ", ":2"});
  EXPECT_TRUE(shared_pair_lines(train, {test[0], test[2]}).empty());
  std::vector<std::string> warnings;
  report(lines, OnDuplicate::kWarn, warnings);
  EXPECT_EQ(warnings, lines);
  EXPECT_THROW(report(lines, OnDuplicate::kError, warnings), UserError);
}

// The model's special tokens are single characters; marks of other models are plain text to it.
TEST_F(PairTokenizerTest, NamesTextThatIsLaidOutAlready) {
  const auto path = write_rows("hello <|im_start|> there,y,n\na < b [c] | d,y,n\nq,[INST] y,n\n");
  const TokenizedFile read = tokenizer().read(path);
  ASSERT_EQ(read.warnings.size(), 1U);
  testing::expect_parts(
      read.warnings[0],
      {path.string() + ": marks of a chat format stand in the texts of 2 of 3 pairs",
       path.string() + ":2 has \"<|im_start|>\""});
}

TEST_F(PairTokenizerTest, RefusesIdsThatTheModelDoesNotKnow) {
  const std::filesystem::path file = write_rows("q,y,n\n");
  EXPECT_EQ(tokenizer(kVocabulary).read(file).pairs.size(), 1U);
  testing::expect_parts(testing::error_of<UserError>([&] { tokenizer(kTurnEnd).read(file); }),
                        {"end-of-sequence token", "token id 301", "vocabulary of 301"});
  options_.add_eos = false;
  testing::expect_parts(testing::error_of<UserError>([&] { tokenizer(kTurnEnd).read(file); }),
                        {file.string() + ":2: token id 301 is outside", "vocabulary of 301"});
}

TEST_F(PairTokenizerTest, SaysWhereTheSystemPromptGoes) {
  options_.system_prompt = "be kind";
  EXPECT_TRUE(tokenizer().warnings().empty());
  write_character_model(directory_, without_system_turns());
  ASSERT_EQ(tokenizer().warnings().size(), 1U);
  EXPECT_NE(tokenizer().warnings()[0].find("takes no system turn"), std::string::npos);
  options_.system_prompt = "";
  EXPECT_TRUE(tokenizer().warnings().empty());
}

TEST_F(PairTokenizerTest, SaysWhereAGivenDateIsNotPrinted) {
  template_.date.given = true;
  EXPECT_FALSE(tokenizer().prints_date());
  ASSERT_EQ(tokenizer().warnings().size(), 1U);
  EXPECT_NE(tokenizer().warnings()[0].find("prints no date"), std::string::npos);
  write_character_model(directory_, std::string("{{ strftime_now('%Y') }}") + testing::kChatMl);
  EXPECT_TRUE(tokenizer().prints_date());
  EXPECT_TRUE(tokenizer().warnings().empty());
}

TEST_F(PairTokenizerTest, NamesTheTextThatTheTemplateAddsByItself) {
  write_character_model(directory_,
                        std::string("{% if messages[0].role != 'system' %}{{ "
                                    "'<|im_start|>system\nhouse rules<|im_end|>\n' }}{% endif %}") +
                            kChatMl);
  EXPECT_EQ(tokenizer().implied_system_text(), "house rules");
  options_.system_prompt = "be kind";
  EXPECT_EQ(tokenizer().implied_system_text(), "");
}

}  // namespace
}  // namespace bipo
