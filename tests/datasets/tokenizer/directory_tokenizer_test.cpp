// What the files beside a tokenizer.json change; against transformers itself in
// tests/reference/user_tokenizers_test.py.
#include "datasets/tokenizer/directory_tokenizer.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

using nlohmann::json;
using testing::error_of;
using testing::expect_parts;
using Ids = std::vector<TokenId>;

json added_token(TokenId id, const std::string& content) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

// Ids: a 0, b 1, c 2, ab 3, the space 4, the added <s> 5 and </s> 6.
json small_tokenizer() {
  return {
      {"version", "1.0"},
      {"added_tokens", {added_token(5, "<s>"), added_token(6, "</s>")}},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model",
       {{"type", "BPE"},
        {"vocab", {{"a", 0}, {"b", 1}, {"c", 2}, {"ab", 3}, {"\u0120", 4}}},
        {"merges", {"a b"}}}}};
}

class DirectoryTokenizerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    directory_ = std::filesystem::path(::testing::TempDir()) / ("bipo_directory_" + name);
    std::filesystem::create_directories(directory_);
    write("tokenizer.json", small_tokenizer());
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void write(const std::string& name, const json& content) const {
    std::ofstream(directory_ / name) << content.dump();
  }
  DirectoryTokenizer read() const { return read_directory_tokenizer(directory_); }

  std::filesystem::path directory_;
};

TEST_F(DirectoryTokenizerTest, TokenizerConfigDecidesWhereItExists) {
  write("tokenizer_config.json", {{"bos_token", nullptr}, {"eos_token", {{"content", "ab"}}}});
  write("generation_config.json", {{"bos_token_id", 1}, {"eos_token_id", 2}});
  EXPECT_EQ(read().special.bos, std::nullopt);
  EXPECT_EQ(read().special.eos, 3);
  write("tokenizer_config.json", {{"bos_token", "a"}});
  EXPECT_EQ(read().special.bos, 0);
  EXPECT_EQ(read().special.eos, std::nullopt);
}

TEST_F(DirectoryTokenizerTest, GenerationConfigThenConfigStandIn) {
  EXPECT_EQ(read().special.bos, std::nullopt);
  write("config.json", {{"bos_token_id", 3}, {"eos_token_id", 4}});
  EXPECT_EQ(read().special.bos, 3);
  EXPECT_EQ(read().special.eos, 4);
  write("generation_config.json", {{"eos_token_id", {2, 1}}});
  EXPECT_EQ(read().special.bos, 3);
  EXPECT_EQ(read().special.eos, 2);
  EXPECT_EQ(read().special.ends, (Ids{2, 1, 4}));
}

TEST_F(DirectoryTokenizerTest, RefusesTokensThatAreNone) {
  write("config.json", {{"eos_token_id", 7}});
  EXPECT_THROW(read(), UserError);
  write("config.json", {{"eos_token_id", -1}});
  EXPECT_THROW(read(), UserError);
  write("tokenizer_config.json", {{"eos_token", 3}});
  expect_parts(error_of<UserError>([&] { read(); }), {"tokenizer_config.json", "eos_token"});
  write("tokenizer_config.json", {{"extra_special_tokens", "<x>"}});
  expect_parts(error_of<UserError>([&] { read(); }), {"extra_special_tokens", "list"});
  write("tokenizer_config.json", {{"added_tokens_decoder", {{"x", {{"content", "<x>"}}}}}});
  expect_parts(error_of<UserError>([&] { read(); }), {"added_tokens_decoder"});
  write("tokenizer_config.json", json::array());
  expect_parts(error_of<UserError>([&] { read(); }), {"JSON object"});
}

TEST_F(DirectoryTokenizerTest, ATokenOfTheConfigAloneIsAddedBehindTheOthers) {
  write("tokenizer_config.json",
        {{"eos_token", "<end>"}, {"extra_special_tokens", {"c"}}, {"image_token", "<img>"}});
  const DirectoryTokenizer made = read();
  EXPECT_EQ(made.special.eos, 7);
  EXPECT_EQ(made.tokenizer.encode("ab<end><img>c"), (Ids{3, 7, 8, 2}));
  EXPECT_TRUE(made.tokenizer.is_special(2));  // c is in the vocabulary, and special now
  EXPECT_EQ(made.named.at("image_token"), "<img>");
}

TEST_F(DirectoryTokenizerTest, FlagsOfTheConfigWin) {
  write("tokenizer_config.json",
        {{"added_tokens_decoder", {{"5", {{"content", "<s>"}, {"rstrip", true}}}}}});
  EXPECT_EQ(read().tokenizer.encode("a<s>  b"), (Ids{0, 5, 1}));
  EXPECT_EQ(read().tokenizer.encode("a</s> b"), (Ids{0, 6, 4, 1}));
}

TEST_F(DirectoryTokenizerTest, SpecialTokensMapWinsWhereTheConfigListsNoTokens) {
  write("tokenizer_config.json", {{"eos_token", "<s>"}, {"bos_token", "<s>"}});
  write("special_tokens_map.json", {{"eos_token", "</s>"}});
  EXPECT_EQ(read().special.eos, 6);
  EXPECT_EQ(read().special.bos, 5);
  write("tokenizer_config.json", {{"eos_token", "<s>"}, {"added_tokens_decoder", json::object()}});
  EXPECT_EQ(read().special.eos, 5);
}

TEST_F(DirectoryTokenizerTest, SplitSpecialTokensMakesThemText) {
  write("tokenizer_config.json",
        {{"split_special_tokens", true}, {"extra_special_tokens", {"ab"}}});
  EXPECT_EQ(read().tokenizer.encode("ab"), Ids{3});  // by the merge
  EXPECT_EQ(read().tokenizer.encode("c<s>"), Ids{2});
}

TEST_F(DirectoryTokenizerTest, ThePostProcessorSaysWhatStandsAroundAText) {
  EXPECT_EQ(read().special.before_text, Ids{});
  json content = small_tokenizer();
  content["post_processor"] = json::parse(R"({"type": "Sequence", "processors": [
      {"type": "ByteLevel"},
      {"type": "TemplateProcessing",
       "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                  {"Sequence": {"id": "A", "type_id": 0}},
                  {"SpecialToken": {"id": "</s>", "type_id": 0}}],
       "special_tokens": {"<s>": {"id": "<s>", "ids": [5], "tokens": ["<s>"]},
                          "</s>": {"id": "</s>", "ids": [6], "tokens": ["</s>"]}}}]})");
  write("tokenizer.json", content);
  // Version 5 passes over add_bos_token; version 4 too, but for the classes of Llama and Gemma.
  write("tokenizer_config.json", {{"add_bos_token", false}, {"bos_token", "<s>"}});
  EXPECT_EQ(read().special.before_text, Ids{5});
  EXPECT_EQ(read().special.after_text, Ids{6});
  write(
      "tokenizer_config.json",
      {{"add_bos_token", false}, {"bos_token", "<s>"}, {"tokenizer_class", "LlamaTokenizerFast"}});
  EXPECT_EQ(read().special.before_text, Ids{5});
  write("config.json", {{"transformers_version", "4.46.0"}});
  EXPECT_EQ(read().special.before_text, Ids{});
  content["post_processor"]["processors"][1]["special_tokens"].erase("<s>");
  write("tokenizer.json", content);
  expect_parts(error_of<UserError>([&] { read(); }), {"tokenizer.json", "post_processor", "<s>"});
}

TEST_F(DirectoryTokenizerTest, AnIdThatTheFileGetsWrongIsOneWarning) {
  json content = small_tokenizer();
  content["added_tokens"][1]["id"] = 9;
  content["added_tokens"].push_back(added_token(10, "<x>"));
  write("tokenizer.json", content);
  const DirectoryTokenizer made = read();
  ASSERT_EQ(made.warnings.size(), 1U);
  expect_parts(made.warnings[0], {"tokenizer.json", "\"</s>\" has id 9, but gets 6", "1 more"});
  EXPECT_EQ(made.tokenizer.token_id("<x>"), 7);
}

TEST_F(DirectoryTokenizerTest, AClassThatBuildsItsOwnIsFollowedUnlessVersion4WroteTheDirectory) {
  json content = small_tokenizer();
  content["normalizer"] = {{"type", "Lowercase"}};  // which GPT-2's class has not
  write("tokenizer.json", content);
  write("tokenizer_config.json", {{"tokenizer_class", "GPT2Tokenizer"},
                                  {"unk_token", nullptr},
                                  {"bos_token", nullptr},
                                  {"eos_token", nullptr}});
  for (const char* version : {"", "5.23.0", "4.46.0"}) {
    write("config.json", {{"model_type", "starcoder2"}, {"transformers_version", version}});
    const DirectoryTokenizer made = read();
    const bool follows_4 = version == std::string("4.46.0");
    EXPECT_EQ(made.tokenizer.encode("cA"), (follows_4 ? Ids{2, 0} : Ids{2})) << version;
    ASSERT_EQ(made.warnings.size(), 1U);
    expect_parts(made.warnings[0], {"GPT2Tokenizer", "in the place of tokenizer.json's Lowercase",
                                    follows_4 ? "followed here: 4.57" : "followed here: 5.23"});
  }
}

TEST_F(DirectoryTokenizerTest, AClassWithoutADifferenceIsNotWorthAWarning) {
  json content = small_tokenizer();
  content["pre_tokenizer"]["use_regex"] = true;
  content["pre_tokenizer"]["trim_offsets"] = true;
  write("tokenizer.json", content);
  write("tokenizer_config.json", {{"tokenizer_class", "GPT2Tokenizer"},
                                  {"unk_token", "<s>"},
                                  {"bos_token", "<s>"},
                                  {"eos_token", "</s>"}});
  write("config.json", {{"model_type", "starcoder2"}});
  EXPECT_EQ(read().warnings, std::vector<std::string>());
}

TEST_F(DirectoryTokenizerTest, AClassWithRulesThatAreNotKnownIsNamed) {
  write("tokenizer_config.json", {{"tokenizer_class", "CodeLlamaTokenizer"}});
  ASSERT_FALSE(read().warnings.empty());
  expect_parts(read().warnings.back(), {"CodeLlamaTokenizer", "tokenizer.json"});
}

TEST_F(DirectoryTokenizerTest, AFileIsNamedWhereItsPartIsCalledLikeTheDirectory) {
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(directory_);
  for (const char* part : {"model", "decoder", "added_tokens"}) {
    std::filesystem::create_directory(part);
    json content = small_tokenizer();
    content[part] = 1;
    std::ofstream(std::filesystem::path(part) / "tokenizer.json") << content.dump();
    expect_parts(error_of<UserError>([&] { read_directory_tokenizer(part); }),
                 {std::string(part) + "/tokenizer.json: " + part + ": "});
  }
  std::filesystem::current_path(before);
}

TEST_F(DirectoryTokenizerTest, OtherKindsOfFilesAreToBeConverted) {
  std::filesystem::remove(directory_ / "tokenizer.json");
  expect_parts(error_of<UserError>([&] { read(); }), {"no tokenizer.json"});
  write("tokenizer.model", "");
  expect_parts(
      error_of<UserError>([&] { read(); }),
      {"tokenizer.model", "AutoTokenizer.from_pretrained(", "save_pretrained(", "sentencepiece"});
}

}  // namespace
}  // namespace bipo
