// Requests to judges and results of providers, written out by hand.
#include "experiments/evaluation/judge.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "collectives/foundation/errors.hpp"
#include "datasets/rows/choice_items.hpp"
#include "datasets/rows/preference_pairs.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::expect_parts;
using Json = nlohmann::json;

class Judge : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    directory_ = fs::path(::testing::TempDir()) / ("bipo_judge_" + name);
    fs::create_directories(directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }

  fs::path write(const std::string& content) const {
    const fs::path path = directory_ / "file";
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }

  JudgeRubric rubric(const std::string& text) const { return read_judge_rubric(write(text)); }

  JudgeScores import(const std::string& lines, const std::vector<std::string>& expected = {},
                     const JudgeScale& scale = {}) const {
    return judge_import(write(lines), expected, scale);
  }

  fs::path directory_;
};

Generation generation(std::int64_t prompt, const std::string& question, double multiplier,
                      const std::string& text) {
  Generation result;
  result.prompt_index = prompt;
  result.prompt = {{"system", "s"}, {"user", question}};
  result.multiplier = multiplier;
  result.text = text;
  result.where = "out.jsonl:" + std::to_string(prompt + 1);
  return result;
}

// A result as the batch interface gives it back.
std::string result(const std::string& id, const std::string& content) {
  return Json{{"id", "batch_req_1"},
              {"custom_id", id},
              {"response",
               {{"status_code", 200},
                {"body", {{"choices", {{{"message", {{"content", content}}}}}}}}}},
              {"error", nullptr}}
             .dump() +
         "\n";
}

// The scores; kNone for none.
constexpr double kNone = -1000;

std::vector<double> values(const JudgeScores& scores) {
  std::vector<double> result;
  for (const JudgeScore& score : scores.scores) {
    result.push_back(score.has_score() ? score.score : kNone);
  }
  return result;
}

TEST_F(Judge, RequestsFillTheRubric) {
  const JudgeRubric with_examples =
      rubric("Q {question} R {response} {\"score\": 4} 4 {matching} 1 {not_matching} {question}");
  EXPECT_TRUE(with_examples.uses_examples);
  // What is filled in is no template: braces in it stay.
  const auto lines =
      judge_export({generation(2, "{response}?", -1.5, "an \"answer\"\n")}, with_examples,
                   "warm tone", "gpt-4o", {{"{response}?", {"kind", "curt"}}}, {});
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_EQ(lines[0].find('\n'), std::string::npos);
  EXPECT_EQ(Json::parse(lines[0]),
            (Json{{"custom_id", "warm tone:2:-1.5"},
                  {"method", "POST"},
                  {"url", "/v1/chat/completions"},
                  {"body",
                   {{"model", "gpt-4o"},
                    {"messages",
                     {{{"role", "system"}, {"content", "You are a helpful assistant."}},
                      {{"role", "user"},
                       {"content",
                        "Q {response}? R an \"answer\"\n {\"score\": 4} 4 kind 1 curt "
                        "{response}?"}}}},
                    {"max_tokens", 10},
                    {"temperature", 0},
                    {"seed", 42}}}}));
}

TEST(JudgeScales, AreALowestAndAHighestScore) {
  const JudgeScale whole = parse_judge_scale("0-100");
  EXPECT_EQ(whole.low, 0);
  EXPECT_EQ(whole.high, 100);
  EXPECT_FALSE(whole.has_decimals);
  EXPECT_EQ(whole.words(), "0 to 100");
  const JudgeScale negative = parse_judge_scale("-2.5--0.5");
  EXPECT_EQ(negative.low, -2.5);
  EXPECT_EQ(negative.high, -0.5);
  EXPECT_TRUE(negative.has_decimals);
  EXPECT_EQ(negative.words(), "-2.5 to -0.5");
  EXPECT_TRUE(parse_judge_scale("1-4") == JudgeScale());
  EXPECT_FALSE(parse_judge_scale("1.0-4") == JudgeScale());
  for (const char* text : {"", "4", "4-1", "2-2", "1-", "-4", "1-4-7", "a-b", "1 - 4", "1e1-4",
                           "1-inf", ".5-1", "1.-4"}) {
    expect_parts(error_of<UserError>([&] { parse_judge_scale(text); }), {"LOW-HIGH"});
  }
}

struct Reply {
  const char* scale;
  const char* text;
  double score;  // kNone: none
};

// The third column is what a person reads.
constexpr Reply kReplies[] = {
    {"1-4", "3", 3},
    {"1-4", " 3 ", 3},
    {"1-4", "3.0", 3},
    {"1-4", "+3", 3},
    {"1-4", "**3**", 3},
    {"1-4", "\"3\"", 3},
    {"1-4", "Score: 3", 3},
    {"1-4", "Score:3.", 3},
    {"1-4", "I give it a 3", 3},
    {"1-4", "3. Friendly, with 2 tips", 3},
    {"1-4", "3 - friendly, 2 tips", 3},
    {"1-4", "**3**: friendly, 2 tips", 3},
    {"1-4", "3/4", 3},
    {"1-4", "3 out of 4: only 2 tips", 3},
    {"1-4", "3 out of 4: 2 tips", kNone},
    {"1-4", "GPT-4 says 3", 3},
    {"1-4", "the 2nd answer is 3", 3},
    {"1-4", "3\n1 of them is bad", 3},
    {"1-4", "\r\n 3\r\n", 3},
    {"1-4", "3/5", kNone},
    {"1-4", "3 or 4", kNone},
    {"1-4", "3-4", kNone},
    {"1-4", "3,5", kNone},
    {"1-4", "3, 4", kNone},
    {"1-4", "3. 4", kNone},
    {"1-4", "03", kNone},
    {"1-4", "3%", kNone},
    {"1-4", "3e0", kNone},
    {"1-4", ".3", kNone},
    {"1-4", "0x3", kNone},
    {"1-4", "-3", kNone},
    {"1-4", "three", kNone},
    {"1-4", "", kNone},
    {"1-4", "1000000000000000000000000000003", kNone},
    {"-2-2", "-2", -2},
    {"-2-2",
     "\xE2\x88\x92"
     "1",
     -1},
    {"-2-2", "Score: -1", -1},
    {"-2-2", "0", 0},
    {"-2-2", "-3", kNone},
    {"0-100", "85%", 85},
    {"0-100", "100/100", 100},
    {"0-100", "100.5", kNone},
    {"0-100", "1,00", kNone},
    {"0.0-1.0", "0.35", 0.35},
    {"0.0-1.0", "1", 1},
    {"0.0-1.0", "0.5.1", kNone},
    {"0.0-1.0", "1.01", kNone},
};

TEST(JudgeReplies, HoldOneScoreOrNone) {
  for (const Reply& reply : kReplies) {
    const auto found = score_in_reply(reply.text, parse_judge_scale(reply.scale));
    EXPECT_EQ(found.value_or(kNone), reply.score) << reply.scale << ": " << reply.text;
  }
}

TEST_F(Judge, RubricsMustKnowTheirPlaceholders) {
  EXPECT_FALSE(rubric("{question} {response} {}{ x } {1}{").uses_examples);
  const auto complaint = [&](const std::string& text) {
    return error_of<UserError>([&] { rubric(text); });
  };
  expect_parts(complaint("{question}"), {"file", "lacks {response}"});
  expect_parts(complaint("{response}"), {"lacks {question}"});
  expect_parts(complaint("{question} {response} {answer}"), {"{answer}", "{not_matching}"});
  expect_parts(complaint(" \n"), {"empty"});
  expect_parts(complaint("{question} {response} \xFF"), {"UTF-8"});
}

TEST_F(Judge, ExamplesComeFromTheTestData) {
  const auto pair = [](const std::string& chosen, const std::string& rejected) {
    PreferencePair made;
    made.prompt = {{"user", "q"}};
    made.chosen = {{"assistant", chosen}};
    made.rejected = {{"assistant", rejected}};
    return made;
  };
  const JudgeExamples pairs = judge_examples({pair("good", "bad"), pair("2", "3")});
  EXPECT_EQ(pairs.at("q").matching, "good");
  EXPECT_EQ(pairs.at("q").not_matching, "bad");
  ChoiceSet set;
  set.items = {{"q", {{"wrong", false}, {"right", true}}, "", ""}};
  EXPECT_EQ(judge_examples(set).at("q").matching, "right");
  EXPECT_EQ(judge_examples(set).at("q").not_matching, "wrong");
  const JudgeRubric needs = rubric("{question} {response} {matching}");
  expect_parts(error_of<UserError>([&] {
                 judge_export({generation(0, "other", 1, "a")}, needs, "b", "m", pairs, {});
               }),
               {"out.jsonl:1", "{matching}"});
}

TEST_F(Judge, TheSampleRubricUsesAllPlaceholders) {
  const JudgeRubric sample =
      read_judge_rubric(fs::path(BIPO_SOURCE_DIR) / "datasets/sample/judge_rubric.txt");
  EXPECT_TRUE(sample.uses_examples);
  for (const char* part : {"{question}", "{response}", "{matching}", "{not_matching}",
                           "Score 4:", "Score 3:", "Score 2:", "Score 1:"}) {
    EXPECT_NE(sample.text.find(part), std::string::npos) << part;
  }
}

TEST_F(Judge, BehavioursMustFitIntoTheId) {
  const JudgeRubric plain = rubric("{question} {response}");
  for (const std::string& name : {std::string(), std::string("a:b"), std::string("a\n"),
                                  std::string(65, 'x'), std::string("\xFF")}) {
    error_of<UserError>([&] { judge_export({}, plain, name, "m", {}, {}); });
  }
  EXPECT_EQ(judge_custom_id({"b", 12, -0.0}), "b:12:0");
  EXPECT_EQ(judge_custom_id({"b", 0, 0.1}), "b:0:0.1");
  EXPECT_EQ(judge_custom_id({"b", 0, -2}), "b:0:-2");
}

TEST_F(Judge, ScoresComeBackInOrder) {
  const JudgeScores scores = import(result("b:1:2", "4") + result("b:0:2", "Score: 3\n4 is out") +
                                    result("b:0:-0.5", "2") + result("a:7:1e-05", "1."));
  EXPECT_EQ(values(scores), (std::vector<double>{1, 2, 3, 4}));
  EXPECT_EQ(scores.scores[0].id.behaviour, "a");
  EXPECT_EQ(scores.scores[0].id.multiplier, 1e-5);
  EXPECT_EQ(scores.scores[1].id.multiplier, -0.5);
  EXPECT_EQ(scores.scores[3].id.prompt_index, 1);
  EXPECT_TRUE(scores.errors.empty() && scores.duplicates.empty() && scores.missing.empty());
}

// What was read before was the first of 4, 3, 2, 1 anywhere in the line.
TEST_F(Judge, ANumberThatIsNoScoreIsNone) {
  for (const char* reply : {"10", "3.5", "-2", "1 or 3", "0", "5", "4th",
                            "\xE2\x88\x92"
                            "2"}) {
    const JudgeScores scores = import(result("b:0:1", reply));
    EXPECT_EQ(values(scores), std::vector<double>{kNone}) << reply;
    ASSERT_EQ(scores.errors.size(), 1U);
    EXPECT_EQ(scores.scores[0].answer, reply);
  }
  EXPECT_EQ(values(import(result("b:0:1", "\n4"))), std::vector<double>{4});
}

TEST_F(Judge, ScoresAreThoseOfTheScale) {
  const std::string replies = result("b:0:1", "10") + result("b:1:1", "0") +
                              result("b:2:1", "7/10") + result("b:3:1", "11");
  EXPECT_EQ(values(import(replies, {}, parse_judge_scale("0-10"))),
            (std::vector<double>{10, 0, 7, kNone}));
  EXPECT_EQ(values(import(replies, {}, parse_judge_scale("0-2"))),
            (std::vector<double>{kNone, 0, kNone, kNone}));
}

TEST_F(Judge, RequestsNameTheScale) {
  const auto request = [&](const std::string& text, const std::string& scale) {
    const auto lines = judge_export({generation(0, "q", 1, "a")}, rubric(text), "b", "m", {},
                                    parse_judge_scale(scale));
    return Json::parse(lines.at(0))["body"]["messages"][1]["content"].get<std::string>();
  };
  EXPECT_EQ(request("{scale}: {question} {response}", "0-2"), "0 to 2: q a");
  EXPECT_EQ(request("{scale}: {question} {response}", "1-4"), "1 to 4: q a");
  EXPECT_EQ(request("{question} {response}", "1-4"), "q a");
  EXPECT_EQ(request("{question} {response}\n", "0-100"),
            "q a\nBegin your reply with the score, a whole number from 0 to 100.");
  EXPECT_EQ(request("{question} {response}", "0.0-1.0"),
            "q a\nBegin your reply with the score, a number from 0.0 to 1.0.");
}

TEST_F(Judge, ErrorsHaveNoScoreAndAreNamed) {
  const std::string refused =
      R"({"custom_id":"b:1:1","response":null,"error":{"message":"too many"}})"
      "\n"
      R"({"custom_id":"b:2:1","response":{"status_code":429,"body":{}}})"
      "\n"
      R"({"custom_id":"b:3:1","response":{"status_code":200,"body":{"choices":[]}}})"
      "\n"
      R"({"custom_id":"b:4:1","response":{"body":{"choices":[{"message":{"content":null}}]}}})"
      "\n";
  const JudgeScores scores = import(result("b:0:1", "no idea") + refused + result("b:5:1", "2"));
  EXPECT_EQ(values(scores), (std::vector<double>{kNone, kNone, kNone, kNone, kNone, 2}));
  EXPECT_EQ(scores.scores[0].answer, "no idea");
  EXPECT_EQ(scores.scores[1].answer, R"({"message":"too many"})");
  ASSERT_EQ(scores.errors.size(), 5U);
  expect_parts(scores.errors[0], {"file:1: b:0:1: ", "no idea"});
  expect_parts(scores.errors[1], {"file:2: b:1:1: ", "too many"});
  expect_parts(scores.errors[2], {"file:3: b:2:1: ", "429"});
  expect_parts(scores.errors[3], {"file:4: b:3:1: ", "choices"});
  expect_parts(scores.errors[4], {"file:5: b:4:1: ", "content"});
}

TEST_F(Judge, OfDuplicatesTheFirstScoreCounts) {
  const JudgeScores scores =
      import(result("b:0:1", "?") + result("b:0:1", "3") + result("b:0:1", "4"));
  EXPECT_EQ(values(scores), std::vector<double>{3});
  EXPECT_TRUE(scores.errors.empty());
  ASSERT_EQ(scores.duplicates.size(), 2U);
  expect_parts(scores.duplicates[0], {"file:2: b:0:1: ", "file:1"});
  expect_parts(scores.duplicates[1], {"file:3: b:0:1: ", "file:2"});
}

TEST_F(Judge, MissingAndForeignIdsAreNamed) {
  const std::vector<std::string> expected =
      judge_ids({generation(0, "q", 1, ""), generation(1, "r", 1, "")}, "b");
  const JudgeScores scores =
      import(result("b:0:1", "3") + result("b:9:1", "3") + result("request-7", "3"), expected);
  EXPECT_EQ(values(scores), std::vector<double>{3});
  EXPECT_EQ(scores.missing, std::vector<std::string>{"b:1:1"});
  ASSERT_EQ(scores.unexpected.size(), 2U);
  expect_parts(scores.unexpected[0], {"file:2: b:9:1"});
  expect_parts(scores.unexpected[1], {"file:3: request-7"});
}

TEST_F(Judge, IdsOfAnotherFormAreForeign) {
  const std::string good = result("b:0:1", "3");
  for (const char* id : {"b:0", ":0:1", "b:x:1", "b:0:1.0", "b:0:nan", "b:-1:1", "b:0:", "b::1", "",
                         ":", "b:0:1 "}) {
    EXPECT_EQ(import(good + result(id, "4")).unexpected.size(), 1U) << id;
  }
  EXPECT_EQ(import(result("b:c:0:1", "3")).scores[0].id.behaviour, "b:c");
}

TEST_F(Judge, FilesThatAreNoResultsAreRefused) {
  const auto complaint = [&](const std::string& lines) {
    return error_of<UserError>([&] { import(lines); });
  };
  expect_parts(complaint(result("b:0:1", "3") + "{"), {"file:2:", "not valid JSON"});
  expect_parts(complaint("{}"), {"file:1:", "custom_id"});
  expect_parts(complaint(result("other", "3")), {"no result of this export", "file:1: other"});
  expect_parts(complaint(""), {"empty"});
}

TEST_F(Judge, SummaryIsTheMeanWithoutErrors) {
  const auto score = [](double multiplier, int value) {
    return value == 0 ? JudgeScore{{"b", 0, multiplier}}
                      : JudgeScore{{"b", 0, multiplier}, static_cast<double>(value)};
  };
  const std::vector<JudgeScore> scores = {score(1, 4), score(-1, 1), score(1, 0), score(1, 3),
                                          score(0, 0)};
  const auto summaries = summarize_judge(scores, 1);
  ASSERT_EQ(summaries.size(), 3U);
  EXPECT_EQ(summaries[0].multiplier, -1);
  EXPECT_EQ(summaries[0].score.value, 1);
  EXPECT_TRUE(std::isnan(summaries[1].score.value));
  EXPECT_EQ(summaries[1].errors, 1);
  EXPECT_EQ(summaries[2].items, 3);
  EXPECT_EQ(summaries[2].errors, 1);
  EXPECT_EQ(summaries[2].score.value, 3.5);
  EXPECT_EQ(summaries[2].score.low, 3);
  EXPECT_EQ(summaries[2].score.high, 4);
}

}  // namespace
}  // namespace bipo
