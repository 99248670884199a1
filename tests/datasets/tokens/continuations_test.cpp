// Prompts with any answers against ids written down by hand.
#include "datasets/tokens/tokenization.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>

#include "collectives/foundation/errors.hpp"
#include "datasets/template/chat_template.hpp"
#include "datasets/tokens/reference_text.hpp"
#include "tests/datasets/character_model.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

using testing::error_of;
using testing::expect_parts;
using testing::ids;
using testing::kBos;
using testing::kChatMl;
using testing::kLineBreakThenA;
using testing::kTurnEnd;
using Ids = std::vector<TokenId>;

class ContinuationsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    directory_ = std::filesystem::path(::testing::TempDir()) / ("bipo_continuations_" + name);
    std::filesystem::create_directories(directory_);
    set_template(kChatMl);
    options_.max_length = 1000;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void set_template(const std::string& source) {
    testing::write_character_model(directory_, source);
    template_ = std::make_unique<ChatTemplate>(
        ChatTemplate(read_chat_template_source(directory_), {"auto", testing::kSomeDate}));
    tokenizer_ = std::make_unique<Tokenizer>(Tokenizer::from_file(directory_ / "tokenizer.json"));
  }

  TextTools text() const { return {*template_, *tokenizer_, special_, options_, vocabulary_}; }

  std::filesystem::path write(const std::string& content) const {
    const auto path = directory_ / "text.txt";
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }

  ReferencePieces pieces(const std::string& content) const {
    return tokenize_reference_text(read_reference_text(write(content)), text());
  }

  std::filesystem::path directory_;
  std::unique_ptr<ChatTemplate> template_;
  std::unique_ptr<Tokenizer> tokenizer_;
  SpecialTokens special_ = {std::nullopt, kTurnEnd, {}};
  TokenizeOptions options_;
  std::int64_t vocabulary_ = 303;
};

const std::vector<Message> kAsk = {{"user", "q"}};

TEST_F(ContinuationsTest, PromptEndsWithTheHeaderOfTheAnswer) {
  options_.system_prompt = "s";
  special_.bos = kBos;
  options_.bos = BosRule::kAlways;
  EXPECT_EQ(tokenize_prompt(kAsk, text()), ids("!<system\ns>\n<user\nq>\n<assistant\n"));
  options_.bos = BosRule::kNever;
  EXPECT_EQ(tokenize_prompt({{"system", "own"}, {"user", "q"}}, text()),
            ids("<system\nown>\n<user\nq>\n<assistant\n"));
}

TEST_F(ContinuationsTest, AnswersShareThePromptsTokens) {
  const Continuations tokens =
      tokenize_answers(kAsk, {"yes", "no", "n"}, AnswerEnd::kEos, text(), "a.csv:2");
  EXPECT_EQ(tokens.prompt, ids("<user\nq>\n<assistant\n"));
  EXPECT_EQ(tokens.answers, (std::vector<Ids>{ids("yes>"), ids("no>"), ids("n>")}));
  EXPECT_EQ(tokens.where, "a.csv:2");
  options_.add_eos = false;
  EXPECT_EQ(tokenize_answers(kAsk, {"yes"}, AnswerEnd::kEos, text(), "").answers.at(0), ids("yes"));
}

// The rule of the pairs: where one answer takes the prompt's line break into its first token, the
// line break belongs to all of them.
TEST_F(ContinuationsTest, OneMergedTokenShortensThePromptForAll) {
  const Continuations tokens = tokenize_answers(kAsk, {"x", "Ab"}, AnswerEnd::kOpen, text(), "");
  EXPECT_EQ(tokens.prompt, ids("<user\nq>\n<assistant"));
  EXPECT_EQ(tokens.answers, (std::vector<Ids>{ids("\nx"), {kLineBreakThenA, 'b'}}));
}

// Llama 2's form puts a space on both sides of an answer.
TEST_F(ContinuationsTest, OpenAnswersEndWithTheirOwnText) {
  set_template(
      "{% for m in messages %}{% if m.role == 'user' %}{{ '[' + m.content + ']' }}"
      "{% else %}{{ ' ' + m.content + ' <|im_end|>' }}{% endif %}{% endfor %}");
  const auto answers = [&](AnswerEnd end) {
    return tokenize_answers(kAsk, {"(A", "(B"}, end, text(), "").answers;
  };
  EXPECT_EQ(answers(AnswerEnd::kOpen), (std::vector<Ids>{ids(" (A"), ids(" (B")}));
  EXPECT_EQ(answers(AnswerEnd::kEos), (std::vector<Ids>{ids(" (A >"), ids(" (B >")}));
}

TEST_F(ContinuationsTest, PlainTextHasNoTemplate) {
  options_.system_prompt = "s";
  special_.before_text = {kBos};
  const Continuations tokens = tokenize_plain_text("Answer:", {" A", " B"}, text(), "");
  EXPECT_EQ(tokens.prompt, ids("!Answer:"));
  EXPECT_EQ(tokens.answers, (std::vector<Ids>{ids(" A"), ids(" B")}));
}

TEST_F(ContinuationsTest, WhatAModelWroteStaysAsItIs) {
  EXPECT_EQ(continue_with_tokens(kAsk, ids("a>b"), text(), "").answers.at(0), ids("a>b"));
  EXPECT_EQ(continue_with_text(kAsk, " a \n", text(), "").answers.at(0), ids(" a \n"));
}

TEST_F(ContinuationsTest, WhatCannotBeScoredIsRefused) {
  const auto complaint = [&](const std::function<void()>& action) {
    return error_of<UserError>(action);
  };
  const std::string empty = complaint([&] {
    tokenize_answers(kAsk, {"a", ""}, AnswerEnd::kEos, text(), "place");
  });
  expect_parts(empty, {"answer ''", "no token", "--skip-bad"});
  EXPECT_EQ(empty.find("place"), std::string::npos);
  expect_parts(complaint([&] { tokenize_plain_text("", {"a"}, text(), ""); }), {"the prompt"});
  expect_parts(complaint([&] { continue_with_tokens(kAsk, {}, text(), ""); }),
               {"the answer has no"});
  // The prompt has 20 tokens.
  options_.max_length = 23;
  expect_parts(complaint([&] {
                 tokenize_answers(kAsk, {"a", "yes"}, AnswerEnd::kEos, text(), "");
               }),
               {"24 tokens", "prompt 20", "longest answer 4", "limit is 23"});
  options_.max_length = 19;
  expect_parts(complaint([&] { tokenize_prompt(kAsk, text()); }), {"20 tokens", "limit is 19"});
  options_.max_length = 1000;
  vocabulary_ = kTurnEnd;
  expect_parts(complaint([&] { tokenize_prompt(kAsk, text()); }), {"301", "vocabulary of 301"});
  special_.eos.reset();
  expect_parts(complaint([&] { tokenize_answers(kAsk, {"a"}, AnswerEnd::kEos, text(), ""); }),
               {"--no-eos"});
  options_.max_length = 0;
  EXPECT_THROW(tokenize_prompt(kAsk, text()), BugError);
}

TEST_F(ContinuationsTest, BlankLinesSeparateDocuments) {
  const auto documents =
      read_reference_text(write("\n \t\r\n a b\r\nc \r\n\n\xC3\xA4\n\r\n  \nlast"));
  ASSERT_EQ(documents.size(), 3U);
  EXPECT_EQ(documents[0].text, " a b\nc ");
  EXPECT_TRUE(documents[0].where.ends_with("text.txt:3")) << documents[0].where;
  EXPECT_EQ(documents[1].text, "\xC3\xA4");
  EXPECT_EQ(documents[2].text, "last");
  EXPECT_TRUE(documents[2].where.ends_with("text.txt:9")) << documents[2].where;
}

TEST_F(ContinuationsTest, ReferenceTextMustBeText) {
  const auto complaint = [&](const std::string& content) {
    return error_of<UserError>([&] { read_reference_text(write(content)); });
  };
  expect_parts(complaint("a\n\xFF\n"), {"text.txt:2:", "UTF-8"});
  expect_parts(complaint(std::string("a\n\n\0b", 5)), {"text.txt:3:", "NUL"});
  expect_parts(complaint(" \n"), {"empty"});
  expect_parts(error_of<UserError>([&] { read_reference_text(directory_); }), {"directory"});
}

TEST_F(ContinuationsTest, AfterBosEveryTokenOfADocumentIsPredicted) {
  special_.before_text = {kBos};
  options_.system_prompt = "s";
  const ReferencePieces result = pieces("ab\nc\n\nd\n\n<s>ef");
  ASSERT_EQ(result.pieces.size(), 3U);
  for (const Continuations& piece : result.pieces) {
    EXPECT_EQ(piece.prompt, Ids{kBos});
  }
  EXPECT_EQ(result.pieces[0].answers, std::vector<Ids>{ids("ab\nc")});
  EXPECT_EQ(result.pieces[1].answers, std::vector<Ids>{ids("d")});
  EXPECT_EQ(result.pieces[2].answers, std::vector<Ids>{ids("ef")});
  EXPECT_TRUE(result.pieces[1].where.ends_with("text.txt:4"));
}

TEST_F(ContinuationsTest, WithoutBosTheFirstTokenIsGiven) {
  const ReferencePieces result = pieces("abc\n\nd\n\nef");
  ASSERT_EQ(result.pieces.size(), 2U);
  EXPECT_EQ(result.pieces[0].prompt, ids("a"));
  EXPECT_EQ(result.pieces[0].answers, std::vector<Ids>{ids("bc")});
  EXPECT_EQ(result.documents, (std::vector<std::size_t>{0, 2}));
  ASSERT_EQ(result.skipped.size(), 1U);
  EXPECT_NE(result.skipped[0].find("text.txt:3:"), std::string::npos);
  EXPECT_NE(error_of<UserError>([&] { pieces("a\n\nb"); }).find("two tokens"), std::string::npos);
}

TEST_F(ContinuationsTest, LongDocumentsAreCutWithoutOverlap) {
  options_.max_length = 3;
  const ReferencePieces without = pieces("abcdefg");
  ASSERT_EQ(without.pieces.size(), 2U);  // the g by itself has nothing to predict it
  EXPECT_EQ(without.pieces[1].prompt, ids("d"));
  EXPECT_EQ(without.pieces[1].answers, std::vector<Ids>{ids("ef")});
  special_.before_text = {kBos};
  const ReferencePieces with = pieces("x\n\nabcde");
  ASSERT_EQ(with.pieces.size(), 4U);
  EXPECT_EQ(with.documents, (std::vector<std::size_t>{0, 1, 1, 1}));
  EXPECT_EQ(with.pieces[1].answers, std::vector<Ids>{ids("ab")});
  EXPECT_EQ(with.pieces[3].answers, std::vector<Ids>{ids("e")});
  EXPECT_EQ(with.pieces[3].prompt, Ids{kBos});
  options_.max_length = 1;
  expect_parts(error_of<UserError>([&] { pieces("abc"); }), {"--max-length"});
}

}  // namespace
}  // namespace bipo
