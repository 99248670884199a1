// Token pairs against ids written down by hand.
#include "datasets/tokens/tokenization.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "collectives/foundation/errors.hpp"
#include "datasets/rows/preference_pairs.hpp"
#include "datasets/template/chat_template.hpp"
#include "tests/datasets/character_model.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

using testing::error_of;
using testing::ids;
using testing::kBos;
using testing::kChatMl;
using testing::kLineBreakThenA;
using testing::kTurnBegin;
using testing::kTurnEnd;
using testing::without_system_turns;
using testing::write_character_model;
using Ids = std::vector<TokenId>;
using Json = nlohmann::ordered_json;

class TokenPairsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    directory_ = std::filesystem::path(::testing::TempDir()) / ("bipo_token_pairs_" + name);
    std::filesystem::create_directories(directory_);
    set_template(kChatMl);
    options_.max_length = 1000;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void set_template(const std::string& chat_template) const {
    write_character_model(directory_, chat_template);
  }

  TokenPairs tokenize(const std::vector<PreferencePair>& pairs) const {
    const ChatTemplate chat_template(read_chat_template_source(directory_),
                                     {format_, testing::kSomeDate});
    const Tokenizer tokenizer = Tokenizer::from_file(directory_ / "tokenizer.json");
    return tokenize_pairs(
        pairs, {chat_template, tokenizer, special_, options_, tokenizer.vocabulary_size()});
  }

  TokenPair tokenize(const PreferencePair& pair) const {
    return tokenize(std::vector{pair}).pairs.at(0);
  }

  std::string complaint(const std::vector<PreferencePair>& pairs) const {
    try {
      tokenize(pairs);
      return "accepted";
    } catch (const UserError& error) {
      return error.what();
    }
  }

  std::filesystem::path directory_;
  std::string format_ = "auto";
  SpecialTokens special_ = {std::nullopt, kTurnEnd, {}};
  TokenizeOptions options_;
};

PreferencePair pair(const std::string& question, const std::string& chosen,
                    const std::string& rejected) {
  PreferencePair pair;
  pair.prompt = {{"user", question}};
  pair.chosen = {{"assistant", chosen}};
  pair.rejected = {{"assistant", rejected}};
  pair.where = "train.csv:7";
  return pair;
}

TEST_F(TokenPairsTest, SystemPromptQuestionAnswersAndOneEos) {
  options_.system_prompt = "be kind";
  const TokenPair tokens = tokenize(pair("q x", "yes", "no"));
  EXPECT_EQ(tokens.prompt, ids("<system\nbe kind>\n<user\nq x>\n<assistant\n"));
  EXPECT_EQ(tokens.chosen, ids("yes>"));
  EXPECT_EQ(tokens.rejected, ids("no>"));
  EXPECT_EQ(tokens.where, "train.csv:7");
}

TEST_F(TokenPairsTest, EmptySystemPromptSendsNone) {
  EXPECT_EQ(tokenize(pair("q", "y", "n")).prompt, ids("<user\nq>\n<assistant\n"));
}

TEST_F(TokenPairsTest, AConversationKeepsItsOwnSystemTurn) {
  options_.system_prompt = "ours";
  PreferencePair own = pair("q", "y", "n");
  own.prompt = {{"system", "theirs"}, {"user", "a"}, {"assistant", "b"}, {"user", "c"}};
  EXPECT_EQ(tokenize(own).prompt,
            ids("<system\ntheirs>\n<user\na>\n<assistant\nb>\n<user\nc>\n<assistant\n"));
}

TEST_F(TokenPairsTest, WhereSystemTurnsAreRefusedTheTextGoesBeforeTheFirstUserTurn) {
  set_template(without_system_turns());
  options_.system_prompt = "s";
  PreferencePair talk = pair("q", "y", "n");
  talk.prompt = {{"user", "a"}, {"assistant", "b"}, {"user", "c"}};
  EXPECT_EQ(tokenize(talk).prompt, ids("<user\ns\n\na>\n<assistant\nb>\n<user\nc>\n<assistant\n"));
  talk.prompt.insert(talk.prompt.begin(), {"system", "own"});
  EXPECT_EQ(tokenize(talk).prompt,
            ids("<user\nown\n\na>\n<assistant\nb>\n<user\nc>\n<assistant\n"));
}

TEST_F(TokenPairsTest, ATokenAcrossTheBoundaryBelongsToTheAnswer) {
  const TokenPair tokens = tokenize(pair("q", "Ab", "xy"));
  EXPECT_EQ(tokens.prompt, ids("<user\nq>\n<assistant"));
  EXPECT_EQ(tokens.chosen, (Ids{kLineBreakThenA, 'b', kTurnEnd}));
  EXPECT_EQ(tokens.rejected, ids("\nxy>"));
}

TEST_F(TokenPairsTest, AnswersThatBeginAlikeStillEndThePromptAtTheHeader) {
  const TokenPair tokens = tokenize(pair("q", "same y", "same n"));
  EXPECT_EQ(tokens.prompt, ids("<user\nq>\n<assistant\n"));
  EXPECT_EQ(tokens.chosen, ids("same y>"));
  EXPECT_EQ(tokens.rejected, ids("same n>"));
}

TEST_F(TokenPairsTest, ATemplatesTextGetsNoBosOfItsOwnAccord) {
  special_.bos = kBos;
  special_.before_text = {kBos};
  EXPECT_EQ(tokenize(pair("q", "y", "n")).prompt, ids("<user\nq>\n<assistant\n"));
  set_template(std::string("{{ bos_token }}") + kChatMl);
  EXPECT_EQ(tokenize(pair("q", "y", "n")).prompt, ids("!<user\nq>\n<assistant\n"));
}

// "1" for each scored token.
std::string marks(const ScoredTokens& scored) {
  std::string text;
  for (const bool one : scored) {
    text += one ? '1' : '0';
  }
  return text;
}

PreferencePair talk_of_turns() {
  PreferencePair talk = pair("q", "ab", "no");
  talk.chosen = {{"assistant", "ab"}, {"user", "c"}, {"assistant", "d"}, {"user", "left out"}};
  return talk;
}

TEST_F(TokenPairsTest, UserTurnsInsideAnAnswerAndTheHeadersThereAreNotScored) {
  const TokenPair tokens = tokenize(talk_of_turns());
  EXPECT_EQ(tokens.prompt, ids("<user\nq>\n<assistant\n"));
  EXPECT_EQ(tokens.chosen, ids("ab>\n<user\nc>\n<assistant\nd>"));
  // The mark that ends the first turn is scored, the line break after it is not.
  EXPECT_EQ(marks(tokens.chosen_scored), "111" + marks(ScoredTokens(21, false)) + "11");
  EXPECT_EQ(tokens.rejected, ids("no>"));
  EXPECT_TRUE(tokens.rejected_scored.empty());
  EXPECT_EQ(scored_count(tokens.chosen_scored, tokens.chosen.size()), 5);
  EXPECT_EQ(scored_count(tokens.rejected_scored, tokens.rejected.size()), 3);

  TokenPair unmasked = tokens;
  unmasked.chosen_scored.clear();
  EXPECT_NE(tokens_hash({tokens}), tokens_hash({unmasked}));
}

TEST_F(TokenPairsTest, AllTurnsOfAnAnswerMayBeScored) {
  options_.train_turns = TrainTurns::kAll;
  PreferencePair talk = talk_of_turns();
  const std::string message = complaint({talk});
  EXPECT_NE(message.find("ends with a turn of 'user'"), std::string::npos) << message;
  talk.chosen.pop_back();
  const TokenPair tokens = tokenize(talk);
  EXPECT_EQ(tokens.chosen, ids("ab>\n<user\nc>\n<assistant\nd>"));
  EXPECT_TRUE(tokens.chosen_scored.empty());
}

TEST_F(TokenPairsTest, AnAnswerMayBeginWithAUsersTurn) {
  PreferencePair talk = pair("q", "a", "b");
  talk.prompt = {{"user", "q"}, {"assistant", "p"}};
  talk.chosen = {{"user", "c"}, {"assistant", "d"}};
  talk.rejected = {{"user", "x"}, {"assistant", "y"}};
  const TokenPair tokens = tokenize(talk);
  EXPECT_EQ(tokens.prompt, ids("<user\nq>\n<assistant\np>\n<"));
  EXPECT_EQ(tokens.chosen, ids("user\nc>\n<assistant\nd>"));
  EXPECT_EQ(marks(tokens.chosen_scored), marks(ScoredTokens(19, false)) + "11");
  EXPECT_EQ(marks(tokens.rejected_scored), marks(tokens.chosen_scored));
  talk.rejected.pop_back();
  EXPECT_NE(complaint({talk}).find("rejected answer has no assistant turn"), std::string::npos);
}

// As TRL 1.16: the context ends where the prompt and the conversation with the answer differ.
TEST_F(TokenPairsTest, AnOpenedBlockThatTheConversationLacksIsLeftOut) {
  std::string opens = kChatMl;
  opens.replace(opens.rfind("assistant\n"), 10, "assistant\nhm\n");
  set_template(opens);
  const TokenPairs tokens = tokenize(std::vector{pair("q", "y", "n"), pair("r", "hy", "n")});
  EXPECT_EQ(tokens.pairs[0].prompt, ids("<user\nq>\n<assistant\n"));
  EXPECT_EQ(tokens.pairs[0].chosen, ids("y>"));
  EXPECT_EQ(tokens.pairs[1].prompt, ids("<user\nr>\n<assistant\n"));
  EXPECT_EQ(tokens.pairs[1].chosen, ids("hy>"));
  EXPECT_TRUE(tokens.warnings.empty());  // the template's own trait, of which its reader tells
}

TEST_F(TokenPairsTest, VariablesOfARowReachItsConversationsAlone) {
  set_template(std::string("{% if mode is defined %}{{ mode }}{% endif %}") + kChatMl);
  PreferencePair own = pair("q", "y", "n");
  own.template_variables = {{"mode", "m"}};
  const TokenPairs tokens = tokenize(std::vector{own, pair("q", "y", "n")});
  EXPECT_EQ(tokens.pairs[0].prompt, ids("m<user\nq>\n<assistant\n"));
  EXPECT_EQ(tokens.pairs[1].prompt, ids("<user\nq>\n<assistant\n"));
  EXPECT_TRUE(tokens.warnings.empty());
}

TEST_F(TokenPairsTest, WhatTheTemplateNeverReadsOfRowsIsNamedOnce) {
  PreferencePair own = pair("q", "y", "n");
  own.template_variables = {{"tools", Json::array()}, {"unset", nullptr}};
  own.chosen[0].extra = {{"reasoning_content", "r"}};
  const TokenPairs tokens = tokenize(std::vector{pair("p", "y", "n"), own, own});
  ASSERT_EQ(tokens.warnings.size(), 2U);
  for (const char* part : {"train.csv:7", "messages' 'reasoning_content'", "2 row(s)"}) {
    EXPECT_NE(tokens.warnings[0].find(part), std::string::npos) << tokens.warnings[0];
  }
  EXPECT_NE(tokens.warnings[1].find("the variable 'tools'"), std::string::npos);
}

TEST_F(TokenPairsTest, RawTextsHaveNothingBetweenThemAndNoSystemPrompt) {
  format_ = "raw";
  options_.system_prompt = "s";
  const TokenPair tokens = tokenize(pair("q\n", "xy", "no"));
  EXPECT_EQ(tokens.prompt, ids("q\n"));
  EXPECT_EQ(tokens.chosen, ids("xy>"));
  // The line break merges with the answer's first letter, as when TRL tokenises both together.
  const TokenPair merged = tokenize(pair("q\n", "Ab", "no"));
  EXPECT_EQ(merged.prompt, ids("q"));
  EXPECT_EQ(merged.chosen, (Ids{kLineBreakThenA, 'b', kTurnEnd}));
}

TEST_F(TokenPairsTest, BosIsAddedOnlyWhereItIsMissingAndKnown) {
  special_.bos = kBos;
  options_.bos = BosRule::kAlways;
  EXPECT_EQ(tokenize(pair("q", "y", "n")).prompt, ids("!<user\nq>\n<assistant\n"));
  options_.bos = BosRule::kNever;
  EXPECT_EQ(tokenize(pair("q", "y", "n")).prompt, ids("<user\nq>\n<assistant\n"));
  options_.bos = BosRule::kAlways;
  special_.bos = kTurnBegin;  // as SmolLM2 names it
  EXPECT_EQ(tokenize(pair("q", "y", "n")).prompt, ids("<user\nq>\n<assistant\n"));
  special_.bos = kBos;
  set_template(std::string("{{ bos_token }}") + kChatMl);
  EXPECT_EQ(tokenize(pair("q", "y", "n")).prompt, ids("!<user\nq>\n<assistant\n"));
}

TEST_F(TokenPairsTest, AlwaysNeedsABosToPut) {
  options_.bos = BosRule::kAlways;
  const std::string error = error_of<UserError>([&] { tokenize(pair("q", "y", "n")); });
  EXPECT_NE(error.find("--bos always"), std::string::npos) << error;
}

// The rule of version 0.1: whatever the files name, before every prompt.
TEST_F(TokenPairsTest, ARunOfVersion01KeepsItsRule) {
  options_.bos = BosRule::kEarlier;
  special_.bos = kTurnEnd;
  EXPECT_EQ(tokenize(pair("q", "y", "n")).prompt, ids("<user\nq>\n<assistant\n"));
  special_.earlier_bos = kBos;
  EXPECT_EQ(tokenize(pair("q", "y", "n")).prompt, ids("!<user\nq>\n<assistant\n"));
  options_.bos = BosRule::kEarlierNever;
  EXPECT_EQ(tokenize(pair("q", "y", "n")).prompt, ids("<user\nq>\n<assistant\n"));
}

TEST_F(TokenPairsTest, EosIsExactlyOneOrNone) {
  EXPECT_EQ(tokenize(pair("q", "y<|im_end|>", "n")).chosen, ids("y>"));
  options_.add_eos = false;
  EXPECT_EQ(tokenize(pair("q", "y", "n")).chosen, ids("y"));
  special_.eos.reset();
  EXPECT_EQ(tokenize(pair("q", "y", "n")).rejected, ids("n"));
  options_.add_eos = true;
  EXPECT_NE(complaint({pair("q", "y", "n")}).find("--no-eos"), std::string::npos);
}

TEST_F(TokenPairsTest, PairsBeyondTheLimitAreNamedWithTheirSize) {
  // The prompt has 20 tokens, the longer answer 4 with its EOS.
  options_.max_length = 24;
  ASSERT_EQ(tokenize(pair("q", "yes", "n")).prompt.size(), 20U);
  options_.max_length = 23;
  const std::string message = complaint({pair("q", "yes", "n")});
  EXPECT_TRUE(message.starts_with("train.csv:7: ")) << message;
  for (const char* fragment : {"24 tokens", "prompt 20", "chosen 4", "rejected 2", "limit is 23",
                               "--max-length", "--skip-bad"}) {
    EXPECT_NE(message.find(fragment), std::string::npos) << message << "\nlacks " << fragment;
  }
}

TEST_F(TokenPairsTest, AnAnswerThatTheTemplateTrimsAwayIsRefused) {
  format_ = "llama3";
  const std::string message = complaint({pair("q", "y", "\u00a0")});
  EXPECT_TRUE(message.starts_with("train.csv:7: the rejected answer has no token")) << message;
}

TEST_F(TokenPairsTest, PlainIsSystemTextBlankLinePromptLineBreakAnswer) {
  format_ = "plain";
  special_.before_text = {kBos};  // the tokenizer's own rule
  EXPECT_EQ(tokenize(pair("q", "yes", "no")).prompt, ids("!q\n"));
  options_.system_prompt = "be kind";
  const TokenPair tokens = tokenize(pair("q", "yes", "no"));
  EXPECT_EQ(tokens.prompt, ids("!be kind\n\nq\n"));
  EXPECT_EQ(tokens.chosen, ids("yes>"));
  EXPECT_EQ(tokens.rejected, ids("no>"));
}

TEST_F(TokenPairsTest, RefusalsOfTheTemplateNameTheRow) {
  set_template(
      std::string("{% if messages | length > 4 %}{{ raise_exception('too many') }}{% endif %}") +
      kChatMl);
  PreferencePair talk = pair("q", "y", "n");
  talk.prompt.assign(5, {"user", "u"});
  const std::string message = complaint({talk});
  EXPECT_TRUE(message.starts_with("train.csv:7: ")) << message;
  EXPECT_NE(message.find("too many"), std::string::npos) << message;
}

TEST_F(TokenPairsTest, SkippedPairsAreCountedAndOneMustRemain) {
  options_.bad_rows = BadRows::kSkip;
  options_.max_length = 22;
  const TokenPairs some = tokenize({pair("q", "y", "n"), pair("q", "yes yes", "n")});
  EXPECT_EQ(some.pairs.size(), 1U);
  ASSERT_EQ(some.skipped.size(), 1U);
  EXPECT_TRUE(some.skipped[0].starts_with("train.csv:7: ")) << some.skipped[0];
  EXPECT_NE(complaint({pair("q", "yes yes", "n")}).find("every pair"), std::string::npos);
}

TEST(TokensHash, ComparesIdsAndWhereTheyStand) {
  const TokenPair first{{1, 2}, {3}, {4}, "a.csv:2"};
  const TokenPair second{{5}, {6, 7}, {8}, "a.csv:3"};
  const std::uint64_t hash = tokens_hash({first, second});
  EXPECT_EQ(tokens_hash({{{1, 2}, {3}, {4}, "b.jsonl:1"}, {{5}, {6, 7}, {8}, "b.jsonl:2"}}), hash);
  EXPECT_NE(tokens_hash({second, first}), hash);
  EXPECT_NE(tokens_hash({first}), hash);
  EXPECT_NE(tokens_hash({first, {{5}, {6}, {7, 8}, "a.csv:3"}}), hash);
  EXPECT_NE(tokens_hash({first, {{5}, {6, 9}, {8}, "a.csv:3"}}), hash);
}

TEST_F(TokenPairsTest, ALimitOfZeroIsABug) {
  options_.max_length = 0;
  EXPECT_THROW(tokenize(pair("q", "y", "n")), BugError);
}

}  // namespace
}  // namespace bipo
