// Which chat templates are recognised, what is refused, and where an answer ends.
#include "datasets/template/chat_template.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

using Json = nlohmann::json;

constexpr const char* kChatMl =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% "
    "endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

constexpr TemplateDate kDate{{std::chrono::year{2024}, std::chrono::month{7}, std::chrono::day{6}},
                             /*given=*/false};

// Begins with a system turn that prints what `expression` gives.
std::string dated(const std::string& expression) {
  return "{{ '<|im_start|>system\nToday ' + " + expression + " + '.<|im_end|>\n' }}" + kChatMl;
}

// What the template makes of an answer to a question, without the end of the turn.
std::string answer_text(const ChatTemplate& chat, const std::string& answer) {
  const std::vector<Message> prompt = {{"user", "q"}};
  const std::string whole = chat.render_answered({prompt, {{"assistant", answer}}});
  const std::string before = chat.render_prompt(prompt);
  EXPECT_TRUE(whole.starts_with(before)) << whole;
  return whole.substr(before.size());
}

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

  ChatTemplate load(const std::string& choice = "auto", const TemplateDate& date = kDate) const {
    return ChatTemplate(read_chat_template_source(directory_), {choice, date});
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
  EXPECT_EQ(answer_text(chat, " A\n"), " A\n");
}

TEST_F(ChatTemplates, AnAnswerMayHoldTheMarkerThatEndsIt) {
  write_config(kChatMl);
  const std::string answer = "a<|im_end|>\n<|im_start|>user\nb<|im_end|>";
  EXPECT_EQ(answer_text(load(), answer), answer);
  EXPECT_EQ(answer_text(load("llama3"), " x<|eot_id|>y "), "x<|eot_id|>y");
  EXPECT_EQ(answer_text(load("llama2"), " x</s>y "), " x</s>y ");
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
  EXPECT_EQ(load("llama2").render_prompt(talk),
            "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] A </s><s>[INST] V [/INST]");
  EXPECT_EQ(load("llama3").render_prompt({{"user", " U "}}),
            "<s><|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n");
  EXPECT_EQ(load("chatml").render_prompt({{"user", "U"}}),
            "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n");
}

TEST_F(ChatTemplates, TheTemplateFileComesBeforeTheConfiguration) {
  write_config("{{ 'something else' }}");
  expect_complaint({"not understood", "tokenizer_config.json"});
  write("chat_template.jinja", kChatMl);
  EXPECT_EQ(load().name(), "chatml");
}

TEST_F(ChatTemplates, AListOfTemplatesMeansItsDefault) {
  write_config(Json::array({{{"name", "tool_use"}, {"template", "{{ broken"}},
                            {{"name", "default"}, {"template", kChatMl}}}));
  EXPECT_EQ(load().name(), "chatml");
  write_config(Json::array({{{"name", "tool_use"}, {"template", kChatMl}}}));
  expect_complaint({"tokenizer_config.json", "\"default\"", "only tool_use", "--chat-template"});
  write_config({{"tool_use", "{{ broken"}, {"default", kChatMl}});  // a table works, too
  EXPECT_EQ(load().name(), "chatml");
  write_config({{"default", 3}});
  expect_complaint({"tokenizer_config.json", "chat_template is neither"});
}

// transformers 5.23 and 4.57 join templates in files with no others.
TEST_F(ChatTemplates, TemplatesInFilesHideThoseOfTheConfig) {
  write_config(kChatMl);
  std::filesystem::create_directories(directory_ / "additional_chat_templates");
  std::ofstream(directory_ / "additional_chat_templates" / "rag.jinja") << "{{ broken";
  expect_complaint({"chat_template.jinja", "\"default\"", "only rag"});
  std::ofstream(directory_ / "chat_template.jinja") << kChatMl;
  EXPECT_EQ(load().name(), "chatml");
  EXPECT_EQ(read_chat_template_source(directory_).named.at("rag"), "{{ broken");
}

TEST_F(ChatTemplates, WithoutATemplateTheErrorNamesWhatToChoose) {
  const std::vector<std::string> advice = {
      "no chat template", directory_.string(), "--chat-template plain", "--chat-template NAME|FILE",
      "chatml",           "mistral-v3"};
  expect_complaint(advice);
  for (const Json& none : {Json(nullptr), Json("")}) {
    write_config(none);
    expect_complaint(advice);
  }
}

TEST_F(ChatTemplates, TemplatesThatDoNotHoldTogetherAreRefusedWithTheReason) {
  const auto replaced = [](const std::string& from, const std::string& to) {
    std::string text = kChatMl;
    return text.replace(text.rfind(from), from.size(), to);
  };
  const std::vector<std::pair<std::string, std::string>> broken = {
      {"{{ raise_exception('never') }}", "refuses a conversation of user and assistant (never)"},
      {"{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}",
       "'<assistant>'"},
      {replaced("m.content", "m.content | replace('\n', ' ')"), "a user's text"},
      {replaced("m.content", "(m.content + m.content)"), "a user's text"},
      {replaced("m.role", "'user'"),
       "it writes 'user\n' between the prompt (whose end 'assistant\n'"},
      {replaced("in messages", "in messages[-1:]"), "does not begin with the prompt"},
      {replaced("in messages", "in messages[-2:]"), "several turns"},
      {replaced("m.content", "(m.content if m.role == 'user' else m.content | replace('<', '['))"),
       "does not contain an answer"},
      {replaced("m.content", "(m.content if m.role != 'system' else m.content * 1)"),
       "cannot be run"},
      {replaced("m.content", "(m.content if m.role != 'system' else (m.content + m.content))"),
       "a system text"},
  };
  for (const auto& [text, reason] : broken) {
    write_config(text);
    expect_complaint({reason, "--chat-template plain", "chatml", "tokenizer_config.json"});
  }
}

// A form without a name whose turns begin and end in words of its own.
TEST_F(ChatTemplates, AnyTemplateThatHoldsTogetherIsTaken) {
  write_config(
      "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ 'Rules: ' + m.content + "
      "'. ' }}{% elif m.role == 'user' %}{{ 'Q: ' + m.content.strip() + '\nA:' }}{% else %}"
      "{{ ' ' + m.content.strip() + ' <end>\n' }}{% endif %}{% endfor %}");
  const ChatTemplate chat = load();
  EXPECT_EQ(chat.name(), "custom");
  EXPECT_TRUE(chat.takes_system_turn());
  EXPECT_EQ(chat.implied_system_text(), "");
  EXPECT_EQ(
      chat.render_prompt({{"system", "S"}, {"user", "U "}, {"assistant", "A"}, {"user", "V"}}),
      "<s>Rules: S. Q: U\nA: A <end>\nQ: V\nA:");
  EXPECT_EQ(answer_text(chat, " x <end>\ny "), " x <end>\ny ");
}

// An empty <think> block before the last answer only, as Qwen3 writes it.
TEST_F(ChatTemplates, AnEmptyThinkBlockBelongsToTheAnswer) {
  write_config(
      "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
      "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
      "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}");
  EXPECT_EQ(load().name(), "chatml");
  EXPECT_EQ(answer_text(load(), "yes"), "<think>\n\n</think>\n\nyes");
}

std::string with_generation_prompt(const std::string& text) {
  std::string chat = kChatMl;
  return chat.replace(chat.rfind("assistant\n"), 10, "assistant\n" + text);
}

// As DeepSeek's R1 distills: the prompt opens a block that finished turns lack.
TEST_F(ChatTemplates, TheEndOfAGenerationPromptMayBeMissingInConversations) {
  for (const std::string open : {"<think>\n", "[THINK]", "<thought>\n", "Let me think."}) {
    write_config(with_generation_prompt(open));
    const ChatTemplate chat = load();
    EXPECT_EQ(chat.left_out_of_context(), open);
    EXPECT_EQ(chat.name(), "custom");
    EXPECT_EQ(chat.render_prompt({{"user", "U"}}),
              "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n" + open);
    EXPECT_EQ(chat.render_answered({{{"user", "U"}}, {{"assistant", "<b>A"}}}),
              "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n<b>A");
  }
}

// As Qwen3 Thinking 2507: what the prompt opens, finished turns close at once.
TEST_F(ChatTemplates, AnOpenedBlockMayBeClosedBeforeTheAnswer) {
  write_config(
      "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
      "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n' }}"
      "{{ (m.reasoning_content or '').strip('\n') + '\n</think>\n\n' }}{% endif %}"
      "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}");
  EXPECT_EQ(load().left_out_of_context(), "");
  EXPECT_EQ(answer_text(load(), "yes"), "\n</think>\n\nyes");
  Message reasoned{"assistant", "yes"};
  reasoned.extra["reasoning"] = "why not";
  EXPECT_EQ(
      load().render_answered({{{"user", "U"}}, {reasoned}}),
      "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n<think>\nwhy not\n</think>\n\nyes");
}

TEST_F(ChatTemplates, VariablesAndMembersOfMessagesReachTheTemplate) {
  write_config(
      "{% if tools %}{{ tools | tojson + '\n' }}{% endif %}{{ mode is defined and mode or 'none' }}"
      "{% for m in messages %}{{ '<|im_start|>' + m.role + (m.name is defined and ' ' + m.name or "
      "'') "
      "+ '\n' + (m.content or '') + (m.tool_calls | tojson if m.tool_calls else '') + "
      "('!' if m.content is not defined else '') + '<|im_end|>\n' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}");
  const ChatTemplate chat(read_chat_template_source(directory_),
                          {"auto", kDate, {{"mode", "fast"}, {"unread", 1}}});
  EXPECT_TRUE(chat.mentions("mode"));
  EXPECT_FALSE(chat.mentions("unread"));
  EXPECT_EQ(chat.render_prompt({{"user", "U"}}),
            "fast<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n");
  Message named{"user", "U"};
  named.extra = {{"name", "Ann"}, {"tool_calls", nullptr}};
  Message calling{"assistant", ""};
  calling.extra = {{"content", nullptr}, {"tool_calls", {{{"z", 1}, {"a", 2}}}}};
  EXPECT_EQ(chat.render_prompt({named, calling}, {{"mode", "slow"}, {"tools", {{{"n", 1}}}}}),
            "[{\"n\": 1}]\nslow<|im_start|>user Ann\nU<|im_end|>\n<|im_start|>assistant\n"
            "[{\"z\": 1, \"a\": 2}]!<|im_end|>\n<|im_start|>assistant\n");
}

TEST_F(ChatTemplates, ToolsChooseTheTemplateForThem) {
  ChatTemplateSource source{kChatMl, "here", {}, {}};
  source.named["tool_use"] =
      "{% for t in tools %}{{ t.n | default('') }}{% endfor %}" + std::string(kChatMl);
  const ChatTemplate chat(source, {"auto", kDate});
  EXPECT_EQ(chat.render_prompt({{"user", "U"}}, {{"tools", {{{"n", "T"}}}}}),
            "T<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(chat.render_prompt({{"user", "U"}}, {{"tools", nullptr}}),
            "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n");
  source.named["tool_use"] = "{{ broken(";
  const ChatTemplate broken(source, {"auto", kDate});
  EXPECT_NO_THROW(broken.render_prompt({{"user", "U"}}));
  EXPECT_THROW(broken.render_prompt({{"user", "U"}}, {{"tools", Json::array()}}), UserError);
}

const std::vector<Message> kThreeTurns = {
    {"assistant", "A1"}, {"user", "U2"}, {"assistant", "A2"}, {"user", "U3"}, {"assistant", "A3"}};

std::vector<std::string> texts_of_spans(const ChatTemplate& chat, const AnswerTurns& turns) {
  const std::string text = chat.render_answered(turns);
  std::vector<std::string> texts;
  for (const TextSpan& span : chat.assistant_spans(turns)) {
    texts.push_back(text.substr(span.begin, span.end - span.begin));
  }
  return texts;
}

TEST_F(ChatTemplates, AssistantTurnsOfAnAnswerEndWithTheirMarker) {
  const AnswerTurns turns{{{"user", "U1"}}, kThreeTurns};
  write_config(kChatMl);
  EXPECT_EQ(texts_of_spans(load(), turns),
            (std::vector<std::string>{
                "<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>",
                "A2<|im_end|>", "A3"}));
  EXPECT_EQ(texts_of_spans(load("llama2"), turns),
            (std::vector<std::string>{"<s>[INST] U1 [/INST] A1 </s>", " A2 </s>", " A3 "}));
  EXPECT_EQ(texts_of_spans(load("plain"), turns), (std::vector<std::string>{"U1\nA1", "A2", "A3"}));
  EXPECT_EQ(texts_of_spans(load("raw"), turns), (std::vector<std::string>{"U1A1", "A2", "A3"}));
}

// As Qwen3: only the last answer has the block, and a prompt's last turns differ from the whole's.
TEST_F(ChatTemplates, AssistantTurnsAreFoundWhereLaterTurnsChangeTheThinking) {
  write_config(
      "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
      "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
      "{{ m.content.split('</think>')[-1] | trim + '<|im_end|>\n' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}");
  AnswerTurns turns{{{"user", "U1"}}, kThreeTurns};
  turns.answer[0].content = "hm</think> A1 ";
  EXPECT_EQ(texts_of_spans(load(), turns),
            (std::vector<std::string>{
                "<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>",
                "A2<|im_end|>", "<think>\n\n</think>\n\nA3"}));
}

TEST_F(ChatTemplates, BordersThatCannotBeFoundAreRefused) {
  write_config(
      "{% for m in messages %}{{ '<|im_start|>' + m.role + (messages | length > 3 and ' x' or '') "
      "+ "
      "'\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}");
  try {
    load().assistant_spans({{{"user", "U1"}}, kThreeTurns});
    FAIL();
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("--train-turns all"), std::string::npos);
  }
}

TEST_F(ChatTemplates, DeepSeeksFormsBeginAnAnswerWithAndWithoutAnOpenedBlock) {
  write_config("unused");
  const std::vector<Message> talk = {
      {"system", "S"}, {"user", "U"}, {"assistant", "why</think>A"}, {"user", "V"}};
  const std::string user = "<\uff5cUser\uff5c>";
  const std::string assistant = "<\uff5cAssistant\uff5c>";
  const std::string end = "<\uff5cend\u2581of\u2581sentence\uff5c>";
  EXPECT_EQ(load("deepseek3").render_prompt(talk),
            "<s>S" + user + "U" + assistant + "why</think>A" + end + user + "V" + assistant);
  EXPECT_EQ(load("deepseek-r1").render_prompt(talk),
            "<s>S" + user + "U" + assistant + "A" + end + user + "V" + assistant + "<think>\n");
  EXPECT_EQ(answer_text(load("deepseek-r1"), "why</think>A"), "why</think>A");
  EXPECT_EQ(load("deepseek-r1").end_of_answer(), end);
}

TEST_F(ChatTemplates, RawIsTheTextsAlone) {
  const ChatTemplate chat = load("raw");
  EXPECT_TRUE(chat.is_raw());
  EXPECT_FALSE(load("plain").is_raw());
  EXPECT_EQ(chat.render_prompt({{"user", " U "}}), " U ");
  EXPECT_EQ(answer_text(chat, " A\n"), " A\n");
  EXPECT_EQ(chat.end_of_answer(), "");
}

TEST_F(ChatTemplates, PlainIsPromptLineBreakAnswer) {
  const ChatTemplate chat = load("plain");
  EXPECT_EQ(chat.name(), "plain");
  EXPECT_EQ(chat.render_prompt({{"user", " U "}}), " U \n");
  EXPECT_EQ(chat.render_prompt({{"system", "S"}, {"user", "U"}}), "S\n\nU\n");
  EXPECT_EQ(chat.render_prompt({{"system", ""}, {"user", "U"}, {"assistant", "A"}, {"user", "V"}}),
            "U\nA\nV\n");
  EXPECT_EQ(answer_text(chat, " A\n"), " A\n");
  EXPECT_EQ(chat.implied_system_text(), "");
  EXPECT_TRUE(chat.takes_system_turn());
}

TEST_F(ChatTemplates, AFileMayHoldTheTemplate) {
  write_config("{{ 'not looked at' }}");
  write("own.jinja", "{{ bos_token }}" + std::string(kChatMl));
  const ChatTemplate chat = load((directory_ / "own.jinja").string());
  EXPECT_EQ(chat.name(), "chatml");
  EXPECT_EQ(chat.render_prompt({{"user", "U"}}),
            "<s><|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n");
  write("bytes.jinja", std::string(kChatMl) + "\xff");
  expect_complaint({"bytes.jinja", "not valid UTF-8"}, (directory_ / "bytes.jinja").string());
  write("broken.jinja", "{{ broken");
  expect_complaint({"broken.jinja", "cannot be run"}, (directory_ / "broken.jinja").string());
}

TEST_F(ChatTemplates, TodayIsTheDateOfTheSettings) {
  write_config(dated("strftime_now('%d %B %Y')"));
  EXPECT_TRUE(load().prints_date());
  EXPECT_EQ(load().implied_system_text(), "Today 06 July 2024.");
  write_config(kChatMl);
  EXPECT_FALSE(load().prints_date());
}

// Llama 3.1 prints a date of its own unless it is given one.
TEST_F(ChatTemplates, AGivenDateReachesTemplatesThatTakeItAsAVariable) {
  write_config(dated("(date_string if date_string is defined else '26 Jul 2024')"));
  EXPECT_FALSE(load().prints_date());
  EXPECT_EQ(load().implied_system_text(), "Today 26 Jul 2024.");
  const TemplateDate given = {kDate.day, /*given=*/true};
  EXPECT_TRUE(load("auto", given).prints_date());
  EXPECT_EQ(load("auto", given).implied_system_text(), "Today 06 Jul 2024.");
}

TEST(TemplateDates, AreDaysOfTheCalendar) {
  EXPECT_EQ(iso_text(parse_iso_date("2024-02-29").value()), "2024-02-29");
  for (const char* text : {"2023-02-29", "2024-13-01", "2024-00-10", "2024-01-32", "24-01-01", "",
                           "2024-1-01", "2024-01-01 ", "2024/01/01", "0999-01-01", "+024-01-01"}) {
    EXPECT_FALSE(parse_iso_date(text)) << text;
  }
}

TEST_F(ChatTemplates, TemplatesThatCannotBeRunSayWhy) {
  write_config(std::string("\n{% include 'other' %}") + kChatMl);
  expect_complaint({"cannot be run", "line 2", "'include'", "--chat-template"});
  write_config(std::string("{{ messages | groupby('role') }}") + kChatMl);
  expect_complaint({"cannot be run", "'groupby'", "--chat-template"});
}

TEST_F(ChatTemplates, WhatIsNeitherANameNorAFileIsRefused) {
  write_config(kChatMl);
  expect_complaint(
      {"'vicuna'", "neither the name of a format nor a file", "chatml", "plain", "--chat-template"},
      "vicuna");
  expect_complaint({"neither"}, directory_.string());
}

}  // namespace
}  // namespace bipo
