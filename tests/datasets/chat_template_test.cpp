// Which chat templates are recognised, what is refused, and where an answer ends.
#include "datasets/chat_template.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "collectives/errors.hpp"

namespace bipo {
namespace {

using Json = nlohmann::json;

constexpr const char* kChatMl =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% "
    "endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

class ChatTemplates : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    directory_ = std::filesystem::path(::testing::TempDir()) / ("bipo_chat_" + name);
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void write(const std::string& name, const std::string& content) const {
    std::ofstream(directory_ / name, std::ios::binary) << content;
  }

  void write_config(const Json& chat_template) const {
    write(
        "tokenizer_config.json",
        Json{{"chat_template", chat_template}, {"bos_token", "<s>"}, {"eos_token", "</s>"}}.dump());
  }

  ChatTemplate load(const std::string& name = "auto") const {
    return ChatTemplate::from_model_directory(directory_, name);
  }

  std::string complaint(const std::string& name = "auto") const {
    try {
      return "accepted as " + load(name).name();
    } catch (const UserError& error) {
      return error.what();
    }
  }

  void expect_complaint(const std::vector<std::string>& fragments,
                        const std::string& name = "auto") const {
    const std::string message = complaint(name);
    for (const std::string& fragment : fragments) {
      EXPECT_NE(message.find(fragment), std::string::npos) << message << "\nlacks " << fragment;
    }
  }

  std::filesystem::path directory_;
};

TEST_F(ChatTemplates, ChatMlIsRecognisedAndRendered) {
  write_config(kChatMl);
  const ChatTemplate chat = load();
  EXPECT_EQ(chat.name(), "chatml");
  EXPECT_TRUE(chat.takes_system_turn());
  EXPECT_EQ(chat.implied_system_text(), "");
  EXPECT_EQ(
      chat.render_prompt({{"system", "S"}, {"user", " U "}}),
      "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n U <|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(chat.render_answer(" A\n"), " A\n");
}

TEST_F(ChatTemplates, AnAnswerMayHoldTheMarkerThatEndsIt) {
  write_config(kChatMl);
  const std::string answer = "a<|im_end|>\n<|im_start|>user\nb<|im_end|>";
  EXPECT_EQ(load().render_answer(answer), answer);
  EXPECT_EQ(load("llama-3").render_answer(" x<|eot_id|>y "), "x<|eot_id|>y");
  EXPECT_EQ(load("llama-2").render_answer(" x</s>y "), " x</s>y ");
}

TEST_F(ChatTemplates, AnImpliedSystemTextIsReported) {
  write_config(
      std::string("{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n"
                  "{{ '' }}{% endif %}") +
      kChatMl);
  EXPECT_EQ(load().implied_system_text(), "Be kind.");
  EXPECT_TRUE(load().takes_system_turn());
}

TEST_F(ChatTemplates, RefusedAndIgnoredSystemTurnsAreNoticed) {
  write_config(std::string("{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}"
                           "{% endif %}") +
               kChatMl);
  EXPECT_EQ(load().name(), "chatml");
  EXPECT_FALSE(load().takes_system_turn());
  EXPECT_THROW(load().render_prompt({{"system", "S"}, {"user", "U"}}), UserError);
  std::string ignoring = kChatMl;
  ignoring.replace(ignoring.find("in messages"), 11, "in messages if m.role != 'system'");
  write_config(ignoring);
  EXPECT_EQ(load().name(), "chatml");
  EXPECT_FALSE(load().takes_system_turn());
}

TEST_F(ChatTemplates, PlainFormsRenderWithTheModelsOwnSpecialTokens) {
  write_config("unused");
  const std::vector<Message> talk = {
      {"system", "S"}, {"user", "U"}, {"assistant", "A"}, {"user", "V"}};
  EXPECT_EQ(load("llama-2").render_prompt(talk),
            "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] A </s><s>[INST] V [/INST]");
  EXPECT_EQ(load("llama-3").render_prompt({{"user", " U "}}),
            "<s><|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n");
  EXPECT_EQ(load("chatml").render_prompt({{"user", "U"}}),
            "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n");
}

TEST_F(ChatTemplates, TheTemplateFileComesBeforeTheConfiguration) {
  write_config("{{ 'something else' }}");
  expect_complaint({"none of the known forms"});
  write("chat_template.jinja", kChatMl);
  EXPECT_EQ(load().name(), "chatml");
}

TEST_F(ChatTemplates, AListOfTemplatesMeansItsDefault) {
  write_config(Json::array({{{"name", "tool_use"}, {"template", "{{ broken"}},
                            {{"name", "default"}, {"template", kChatMl}}}));
  EXPECT_EQ(load().name(), "chatml");
  write_config(Json::array({{{"name", "tool_use"}, {"template", kChatMl}}}));
  expect_complaint({"tokenizer_config.json", "'default'", "--chat-template"});
}

TEST_F(ChatTemplates, WhatIsNotRecognisedIsAnErrorThatNamesTheKnownForms) {
  const std::vector<std::string> advice = {"--chat-template", "chatml", "llama-2", "llama-3"};
  expect_complaint(advice);
  expect_complaint({"no chat template", directory_.string()});
  for (const std::string other : {
           "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}",
           "{{ raise_exception('never') }}",
           "",
       }) {
    write_config(other);
    expect_complaint(advice);
    expect_complaint({"none of the known forms"});
  }
}

TEST_F(ChatTemplates, FormsThatOnlyLookAlikeAreNotAccepted) {
  const auto replaced = [](const std::string& from, const std::string& to) {
    std::string text = kChatMl;
    return text.replace(text.rfind(from), from.size(), to);
  };
  for (const std::string& almost : {
           replaced("m.content", "m.content | upper"),
           replaced("m.role", "'user'"),
           replaced("<|im_end|>\n", "<|im_end|>"),
           replaced("assistant\n", "assistant\n<think>\n"),
           replaced("in messages", "in messages[-1:]"),
       }) {
    write_config(almost);
    expect_complaint({"none of the known forms"});
  }
}

TEST_F(ChatTemplates, TemplatesThatCannotBeRunSayWhy) {
  write_config(std::string("\n{% include 'other' %}") + kChatMl);
  expect_complaint({"cannot be run", "line 2", "'include'", "--chat-template"});
  write_config(std::string("{{ messages | groupby('role') }}") + kChatMl);
  expect_complaint({"cannot be run", "'groupby'", "--chat-template"});
}

TEST_F(ChatTemplates, UnknownNamesAreRefused) {
  write_config(kChatMl);
  expect_complaint({"'vicuna'", "chatml", "--chat-template"}, "vicuna");
  EXPECT_EQ(ChatTemplate::names(), (std::vector<std::string>{"chatml", "llama-2", "llama-3"}));
}

}  // namespace
}  // namespace bipo
