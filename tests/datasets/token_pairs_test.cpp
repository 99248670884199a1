// Token pairs against ids that a tokenizer with one token per ASCII character makes easy to write
// down.
#include "datasets/token_pairs.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "collectives/errors.hpp"

namespace bipo {
namespace {

using Json = nlohmann::json;
using Ids = std::vector<TokenId>;

constexpr TokenId kLineBreakThenA = 200;  // the only merge
constexpr TokenId kTurnBegin = 300;
constexpr TokenId kTurnEnd = 301;
constexpr TokenId kBos = 302;

constexpr const char* kChatMl =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

// Ids are the ASCII codes; "<", ">" and "!" stand for the three special tokens.
Ids ids(const std::string& text) {
  Ids result;
  for (const char character : text) {
    result.push_back(character == '<'   ? kTurnBegin
                     : character == '>' ? kTurnEnd
                     : character == '!' ? kBos
                                        : static_cast<TokenId>(character));
  }
  return result;
}

class TokenPairsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    directory_ = std::filesystem::path(::testing::TempDir()) / ("bipo_token_pairs_" + name);
    std::filesystem::create_directories(directory_);
    write("tokenizer.json", tokenizer_json());
    set_template(kChatMl);
    options_.max_length = 1000;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  static Json tokenizer_json() {
    Json vocabulary;
    for (char character = '!'; character <= '~'; ++character) {
      vocabulary[std::string(1, character)] = static_cast<int>(character);
    }
    vocabulary["\u0120"] = 32;  // a space, in the byte-level alphabet
    vocabulary["\u010a"] = 10;  // a line break
    vocabulary["\u010aA"] = kLineBreakThenA;
    vocabulary["<|im_start|>"] = kTurnBegin;
    vocabulary["<|im_end|>"] = kTurnEnd;
    vocabulary["<s>"] = kBos;
    const auto added = [](TokenId id, const char* content) {
      return Json{{"id", id},        {"content", content}, {"single_word", false},
                  {"lstrip", false}, {"rstrip", false},    {"normalized", false},
                  {"special", true}};
    };
    const Json byte_level = {{"type", "ByteLevel"},
                             {"add_prefix_space", false},
                             {"trim_offsets", true},
                             {"use_regex", false}};
    return {
        {"version", "1.0"},
        {"truncation", nullptr},
        {"padding", nullptr},
        {"added_tokens",
         {added(kTurnBegin, "<|im_start|>"), added(kTurnEnd, "<|im_end|>"), added(kBos, "<s>")}},
        {"normalizer", nullptr},
        {"pre_tokenizer", byte_level},
        {"post_processor", nullptr},
        {"decoder", byte_level},
        {"model",
         {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"vocab", vocabulary},
          {"merges", {"\u010a A"}}}}};
  }

  void write(const std::string& name, const Json& content) const {
    std::ofstream(directory_ / name, std::ios::binary) << content.dump();
  }

  void set_template(const std::string& chat_template) const {
    write("tokenizer_config.json", {{"chat_template", chat_template}, {"bos_token", "<s>"}});
  }

  TokenPairs tokenize(const std::vector<PreferencePair>& pairs) const {
    return tokenize_pairs(pairs, ChatTemplate::from_model_directory(directory_, format_),
                          Tokenizer::from_file(directory_ / "tokenizer.json"), special_, options_);
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
  SpecialTokens special_ = {std::nullopt, kTurnEnd};
  TokenizeOptions options_;
};

PreferencePair pair(const std::string& question, const std::string& chosen,
                    const std::string& rejected) {
  return {{{"user", question}}, chosen, rejected, "train.csv:7"};
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
  set_template(
      std::string("{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}") +
      kChatMl);
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

TEST_F(TokenPairsTest, BosIsAddedOnlyWhereItIsMissingAndKnown) {
  special_.bos = kBos;
  EXPECT_EQ(tokenize(pair("q", "y", "n")).prompt, ids("!<user\nq>\n<assistant\n"));
  options_.add_bos = false;
  EXPECT_EQ(tokenize(pair("q", "y", "n")).prompt, ids("<user\nq>\n<assistant\n"));
  options_.add_bos = true;
  special_.bos = kTurnBegin;  // as SmolLM2 names it
  EXPECT_EQ(tokenize(pair("q", "y", "n")).prompt, ids("<user\nq>\n<assistant\n"));
  special_.bos = kBos;
  set_template(std::string("{{ bos_token }}") + kChatMl);
  EXPECT_EQ(tokenize(pair("q", "y", "n")).prompt, ids("!<user\nq>\n<assistant\n"));
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
  format_ = "llama-3";
  const std::string message = complaint({pair("q", "y", "\u00a0")});
  EXPECT_TRUE(message.starts_with("train.csv:7: the rejected answer has no token")) << message;
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

TEST_F(TokenPairsTest, ALimitOfZeroIsABug) {
  options_.max_length = 0;
  EXPECT_THROW(tokenize(pair("q", "y", "n")), BugError);
}

}  // namespace
}  // namespace bipo
