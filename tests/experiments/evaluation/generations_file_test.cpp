// Files of generations: what is read, what is refused, and the tokens that are to be scored.
#include "experiments/evaluation/generations_file.hpp"

#include <gtest/gtest.h>

#include <fstream>

#include "collectives/foundation/errors.hpp"
#include "datasets/template/chat_template.hpp"
#include "datasets/tokens/tokenization.hpp"
#include "tests/datasets/character_model.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::expect_parts;
using testing::ids;

class GenerationsFile : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    directory_ = fs::path(::testing::TempDir()) / ("bipo_generations_" + name);
    fs::create_directories(directory_);
    testing::write_character_model(directory_, testing::kChatMl);
    options_.max_length = 1000;
    options_.bos = BosRule::kNever;
  }
  void TearDown() override { fs::remove_all(directory_); }

  std::vector<Generation> read(const std::string& rows) const {
    const fs::path path = directory_ / "out.jsonl";
    std::ofstream(path) << rows;
    return read_generations(path);
  }

  void expect_refused(const std::string& rows, int line, std::vector<std::string> parts) const {
    parts.push_back((directory_ / "out.jsonl").string() + ":" + std::to_string(line) + ":");
    expect_parts(error_of<UserError>([&] { read(rows); }), parts);
  }

  GenerationTokens tokenize(const std::string& rows) const {
    const ChatTemplate chat_template =
        ChatTemplate(read_chat_template_source(directory_), {"auto", testing::kSomeDate});
    const Tokenizer tokenizer = Tokenizer::from_file(directory_ / "tokenizer.json");
    const SpecialTokens special = {testing::kBos, testing::kTurnEnd, {}};
    return tokenize_generations(read(rows), {chat_template, tokenizer, special, options_, 303});
  }

  fs::path directory_;
  TokenizeOptions options_;
};

// One row; `more` are further members.
std::string row(int prompt, double multiplier, const std::string& text,
                const std::string& more = "") {
  return R"({"prompt_index":)" + std::to_string(prompt) + R"(,"prompt":"q)" +
         std::to_string(prompt) + R"(","multiplier":)" + std::to_string(multiplier) +
         R"(,"text":")" + text + "\"" + more + "}\n";
}

TEST_F(GenerationsFile, RowsAsGenerateWritesThem) {
  const auto rows =
      read(R"({"prompt_index":0,"prompt":"q","multiplier":-1.5,"text":"a\u00e4","tokens":[1,2],)"
           R"("mean_logprob":-1.25,"finish_reason":"stop"})"
           "\n\n"
           R"({"prompt_index":3,"prompt":[{"role":"system","content":"s"},)"
           R"({"role":"user","content":"u"}],"multiplier":0,"text":"","tokens":null,"extra":1})"
           "\n");
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0].prompt.at(0).role, "user");
  EXPECT_EQ(rows[0].prompt.at(0).content, "q");
  EXPECT_EQ(rows[0].multiplier, -1.5);
  EXPECT_EQ(rows[0].text, "a\u00e4");
  EXPECT_EQ(rows[0].tokens, (std::vector<TokenId>{1, 2}));
  EXPECT_EQ(rows[0].mean_logprob, -1.25);
  EXPECT_EQ(rows[0].finish_reason, "stop");
  EXPECT_EQ(rows[1].prompt_index, 3);
  EXPECT_EQ(rows[1].prompt.at(1).content, "u");
  EXPECT_FALSE(rows[1].tokens || rows[1].mean_logprob);
  EXPECT_EQ(rows[1].finish_reason, "");
  EXPECT_TRUE(rows[1].where.ends_with("out.jsonl:3"));
}

TEST_F(GenerationsFile, RefusesWhatIsNoGeneration) {
  const auto refuse = [&](const std::string& bad, const std::vector<std::string>& parts) {
    expect_refused(row(0, 1, "t") + bad, 2, parts);
  };
  refuse("[]", {"object"});
  refuse("{", {"not valid JSON"});
  refuse(R"({"prompt":"q","multiplier":1,"text":"t"})", {"'prompt_index' is missing"});
  refuse(R"({"prompt_index":-1,"prompt":"q","multiplier":1,"text":"t"})", {"'prompt_index'", "-1"});
  refuse(R"({"prompt_index":1,"prompt":{},"multiplier":1,"text":"t"})", {"'prompt'", "object"});
  refuse(R"({"prompt_index":1,"prompt":[{"role":"assistant","content":"a"}],"multiplier":1,)"
         R"("text":"t"})",
         {"user turn"});
  refuse(R"({"prompt_index":1,"prompt":"q","multiplier":"1","text":"t"})", {"'multiplier'"});
  refuse(R"({"prompt_index":1,"prompt":"q","multiplier":1,"text":null})", {"'text' is missing"});
  refuse(row(1, 1, "t", R"(,"tokens":[1.5])"), {"'tokens'", "1.5"});
  refuse(row(1, 1, "t", R"(,"template_variables":[])"), {"'template_variables'", "object"});
  refuse(row(1, 1, "t", R"(,"finish_reason":"eos")"), {"'finish_reason'", "stop"});
  refuse(row(0, 1, "again"), {"second answer to prompt_index 0", "out.jsonl:1"});
  refuse(R"({"prompt_index":0,"prompt":"other","multiplier":2,"text":"t"})",
         {"another prompt", "out.jsonl:1"});
}

TEST_F(GenerationsFile, RefusesFilesWithoutARow) {
  expect_parts(error_of<UserError>([&] { read("\n \n"); }), {"out.jsonl", "empty"});
  expect_parts(error_of<UserError>([&] { read_generations(directory_ / "absent"); }), {"absent"});
}

const std::string kPrompt = "<user\nq0>\n<assistant\n";

TEST_F(GenerationsFile, TokensOfTheSameTokenizerAreScoredAsTheyAre) {
  // One token for the line break and the A behind it, or two: the text does not tell.
  const std::string tokens = R"(,"tokens":[98,10,65,301])";
  const auto result = tokenize(row(0, 1, "b\\nA", tokens));
  ASSERT_EQ(result.items.size(), 1U);
  EXPECT_EQ(result.items[0].prompt, ids(kPrompt));
  EXPECT_EQ(result.items[0].answers.at(0), ids("b\nA"));
  EXPECT_EQ(result.rows, std::vector<std::size_t>{0});
}

TEST_F(GenerationsFile, VariablesOfThePromptReachTheTemplateAgain) {
  testing::write_character_model(
      directory_, std::string("{% if mode is defined %}{{ mode }}{% endif %}") + testing::kChatMl);
  const GenerationTokens tokens = tokenize(row(0, 1, "t", R"(,"template_variables":{"mode":"m"})") +
                                           row(1, 1, "t", R"(,"template_variables":null)"));
  ASSERT_EQ(tokens.items.size(), 2U);
  EXPECT_EQ(tokens.items[0].prompt, ids("m<user\nq0>\n<assistant\n"));
  EXPECT_EQ(tokens.items[1].prompt, ids("<user\nq1>\n<assistant\n"));
}

TEST_F(GenerationsFile, OtherTokensGiveWayToTheText) {
  const auto result = tokenize(row(0, 1, "b\\nA", R"(,"tokens":[7,8],"finish_reason":"length")") +
                               row(0, 2, " x\\n", R"(,"finish_reason":"stop")"));
  ASSERT_EQ(result.items.size(), 2U);
  EXPECT_EQ(result.items[0].answers.at(0), (std::vector<TokenId>{'b', testing::kLineBreakThenA}));
  EXPECT_EQ(result.items[1].answers.at(0), ids(" x\n"));
}

TEST_F(GenerationsFile, WhatEndsAnAnswerIsNeverCounted) {
  const std::string stop = R"(,"finish_reason":"stop")";
  // 301 is EOS: at the end of the row's own tokens, twice there, amid them, and not among them.
  const auto result =
      tokenize(row(0, 1, "ab", R"(,"tokens":[97,98,301])" + stop) +
               row(0, 2, "ab", R"(,"tokens":[97,98,301,301])" + stop) +
               row(0, 3, "ab", R"(,"tokens":[97,301,98])" + stop) +
               row(0, 4, "ab", R"(,"tokens":[97,98])" + stop) + row(0, 5, "ab", stop));
  ASSERT_EQ(result.items.size(), 5U);
  for (const Continuations& item : result.items) {
    EXPECT_EQ(item.answers.at(0), ids("ab"));
  }
}

TEST_F(GenerationsFile, EmptyAnswersAreLeftOut) {
  const auto result = tokenize(row(0, 1, "") + row(0, 2, "", R"(,"tokens":[7])") +
                               row(0, 3, "", R"(,"tokens":[301])") + row(0, 4, "y"));
  EXPECT_EQ(result.rows, std::vector<std::size_t>{3});
  ASSERT_EQ(result.skipped.size(), 3U);
  EXPECT_NE(result.skipped[0].find("out.jsonl:1: the answer is empty"), std::string::npos);
  expect_parts(error_of<UserError>([&] { tokenize(row(0, 1, "")); }), {"no answer with text"});
}

TEST_F(GenerationsFile, TooLongAnswersAreNamed) {
  options_.max_length = static_cast<std::int64_t>(ids(kPrompt).size()) + 2;
  EXPECT_EQ(tokenize(row(0, 1, "yy")).items.size(), 1U);
  const std::string rows = row(0, 1, "yy") + row(0, 2, "yyy");
  expect_parts(error_of<UserError>([&] { tokenize(rows); }), {"out.jsonl:2: ", "--max-length"});
  options_.bad_rows = BadRows::kSkip;
  EXPECT_EQ(tokenize(rows).rows, std::vector<std::size_t>{0});
}

}  // namespace
}  // namespace bipo
