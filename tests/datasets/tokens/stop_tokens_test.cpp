// What ends a generated answer: of a model directory with a template, and of one without marks.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "datasets/tokens/pair_tokenizer.hpp"
#include "datasets/tokens/tokenization.hpp"
#include "tests/datasets/character_model.hpp"

namespace bipo {
namespace {

using testing::kBos;
using testing::kChatMl;
using testing::kTurnBegin;
using testing::kTurnEnd;

class StopTokens : public ::testing::Test {
 protected:
  StopTokens()
      : directory_(std::filesystem::temp_directory_path() /
                   ("bipo-stops-" + std::to_string(getpid()))) {
    std::filesystem::create_directories(directory_);
    testing::write_character_model(directory_, kChatMl);
  }
  ~StopTokens() override { std::filesystem::remove_all(directory_); }

  void write(const std::string& name, const std::string& content) const {
    std::ofstream(directory_ / name) << content;
  }

  std::vector<TokenId> stops(const std::string& chat_template = "auto") const {
    TokenizeOptions options;
    options.max_length = 1000;
    const PairTokenizer tokenizer(read_model_text(directory_), {chat_template, testing::kSomeDate},
                                  303, options);
    return stop_tokens(tokenizer.text());
  }

  std::filesystem::path directory_;
};

TEST_F(StopTokens, EosAndTheTemplatesMarkAreOne) {
  EXPECT_EQ(stops(), (std::vector<TokenId>{kTurnEnd}));
}

// As Gemma, whose EOS is not what ends a turn.
TEST_F(StopTokens, TheTemplatesMarkEndsAnAnswerBesideEos) {
  write(
      "tokenizer_config.json",
      R"({"eos_token": "<s>", "chat_template": ")"
      R"({% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }})"
      R"({% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"})");
  EXPECT_EQ(stops(), (std::vector<TokenId>{kTurnEnd, kBos}));
}

TEST_F(StopTokens, GenerationConfigNamesFurtherOnes) {
  write("generation_config.json", R"({"eos_token_id": [300, 301, 99999]})");
  EXPECT_EQ(stops(), (std::vector<TokenId>{kTurnBegin, kTurnEnd}));
}

// The ids of all files together, also of a part of config.json.
TEST_F(StopTokens, ConfigNamesFurtherOnes) {
  write("generation_config.json", R"({"eos_token_id": 300})");
  write("config.json", R"({"eos_token_id": [302, -1], "text_config": {"eos_token_id": 17}})");
  EXPECT_EQ(stops(), (std::vector<TokenId>{17, kTurnBegin, kTurnEnd, 302}));
}

// The plain format puts a line break behind an answer, which any answer may hold.
TEST_F(StopTokens, ALineBreakEndsNoAnswer) {
  EXPECT_EQ(stops("plain"), (std::vector<TokenId>{kTurnEnd}));
}

}  // namespace
}  // namespace bipo
