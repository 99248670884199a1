// Files of prompts: what is read from them, and what is refused.
#include "datasets/rows/prompt_list.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "collectives/foundation/errors.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

class PromptList : public ::testing::Test {
 protected:
  PromptList()
      : directory_(std::filesystem::temp_directory_path() /
                   ("bipo-prompts-" + std::to_string(getpid()))) {
    std::filesystem::create_directory(directory_);
  }
  ~PromptList() override { std::filesystem::remove_all(directory_); }

  std::filesystem::path write(const std::string& name, const std::string& content) const {
    std::ofstream(directory_ / name, std::ios::binary) << content;
    return directory_ / name;
  }

  void expect_error(const std::string& name, const std::string& content,
                    const std::vector<std::string>& parts) const {
    testing::expect_parts(testing::error_of<UserError>([&] { read_prompts(write(name, content)); }),
                          parts);
  }

  std::filesystem::path directory_;
};

TEST_F(PromptList, OneQuestionALine) {
  const auto prompts = read_prompts(write("p.txt", "First?\r\n\n  Second, with space? \n"));
  ASSERT_EQ(prompts.size(), 2U);
  EXPECT_EQ(prompts[0].messages.size(), 1U);
  EXPECT_EQ(prompts[0].messages[0].role, "user");
  EXPECT_EQ(prompts[0].messages[0].content, "First?");
  EXPECT_EQ(prompts[1].messages[0].content, "  Second, with space? ");
  EXPECT_TRUE(prompts[1].where.ends_with("p.txt:3"));
}

TEST_F(PromptList, FilesOfPairsServe) {
  const auto prompts = read_prompts(
      write("p.csv", "matching,question,not_matching\nyes,\"What, \"\"now\"\"?\",no\n"));
  ASSERT_EQ(prompts.size(), 1U);
  EXPECT_EQ(prompts[0].messages[0].content, "What, \"now\"?");
  EXPECT_TRUE(prompts[0].where.ends_with("p.csv:2"));
}

TEST_F(PromptList, RowsOfPairsGiveThePromptOfTheirPairs) {
  const auto prompt = [&](const std::string& row) {
    std::string text;
    const std::vector<Prompt> prompts = read_prompts(write("p.jsonl", row));
    for (const Message& turn : prompts.at(0).messages) {
      text += turn.role + "(" + turn.content + ")";
    }
    return text;
  };
  EXPECT_EQ(prompt(R"({"system":"s","question":"q","chosen":null})"), "system(s)user(q)");
  EXPECT_EQ(prompt(R"({"instruction":"i","input":"x"})"), "user(i\nx)");
  EXPECT_EQ(prompt(R"({"messages":[{"role":"user","content":"m"}]})"), "user(m)");
  EXPECT_EQ(
      prompt(
          R"({"chosen":"\n\nHuman: q\n\nAssistant: a","rejected":"\n\nHuman: q\n\nAssistant: b"})"),
      "user(q)");
  EXPECT_EQ(read_prompts(write("p.jsonl", R"({"prompt":"q","chat_template_kwargs":{"a":1}})"))
                .at(0)
                .template_variables.dump(),
            R"({"a":1})");
  expect_error("p.csv", "Title,Body\na,b\n", {"p.csv:1", "'Title,Body'", "'question' or 'prompt'"});
  const auto both = read_prompts(write("p.csv", "prompt,question\nx,q\n"));
  EXPECT_EQ(both.at(0).messages[0].content, "q");
}

TEST_F(PromptList, BadRowsCanBeLeftOut) {
  const auto expect_second = [&](const std::string& name, const std::string& content) {
    const auto path = write(name, content);
    EXPECT_THROW(read_prompts(path), UserError) << name;
    const PromptFile file = read_prompts(path, BadRows::kSkip);
    ASSERT_EQ(file.prompts.size(), 1U) << name;
    EXPECT_EQ(file.prompts[0].messages[0].content, "good");
    ASSERT_EQ(file.skipped.size(), 1U) << name;
    EXPECT_NE(file.skipped[0].find(name + ":"), std::string::npos) << file.skipped[0];
  };
  expect_second("p.txt", "b\xff\ngood\n");
  expect_second("p.csv", "question,other\n,x\ngood,x\n");
  expect_second("p.jsonl", "{\"prompt\":\"good\"}\n{\"other\":1}\n");
  testing::expect_parts(testing::error_of<UserError>([&] {
                          read_prompts(write("q.jsonl", "{\"other\":1}\n"), BadRows::kSkip);
                        }),
                        {"q.jsonl: holds no prompt", "q.jsonl:1: the row has no prompt"});
}

TEST_F(PromptList, JsonLinesHoldTextsOrConversations) {
  const auto prompts = read_prompts(write(
      "p.jsonl",
      R"({"prompt": "A?", "chosen": "x"})"
      "\n"
      R"({"prompt_arr": [{"role": "system", "content": "S"}, {"role": "user", "content": "B?"}]})"
      "\n"
      R"({"question": "C?"})"));
  ASSERT_EQ(prompts.size(), 3U);
  EXPECT_EQ(prompts[0].messages[0].content, "A?");
  EXPECT_EQ(prompts[1].messages[0].role, "system");
  EXPECT_EQ(prompts[1].messages[1].content, "B?");
  EXPECT_EQ(prompts[2].messages[0].content, "C?");
}

TEST_F(PromptList, WhatIsNoPromptIsRefusedWithItsPlace) {
  expect_error("p.csv", "question\n\"  \"\n", {"p.csv:2", "empty"});
  expect_error("p.csv", "text\nx\n", {"p.csv:1", "prompt"});
  expect_error("p.jsonl", "{\"text\": 1}\n", {"p.jsonl:1", "no prompt"});
  expect_error("p.jsonl", "{\"prompt\": \"\"}\n", {"p.jsonl:1", "empty"});
  expect_error("p.jsonl", "{\"prompt\": [{\"role\": \"assistant\", \"content\": \"x\"}]}\n",
               {"p.jsonl:1", "user"});
  expect_error("p.md", "x\n", {"'.md'", ".txt"});
  expect_error("p.txt", "\n \n", {"p.txt"});
  testing::expect_parts(testing::error_of<UserError>([] { prompt_from_text(" ", "--prompt"); }),
                        {"--prompt", "empty"});
}

}  // namespace
}  // namespace bipo
