// Readers of preference data against rows written out by hand: what they accept, and each
// complaint.
#include "datasets/rows/preference_pairs.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <functional>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

class PreferencePairs : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    directory_ = std::filesystem::path(::testing::TempDir()) / ("bipo_pairs_" + name);
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::filesystem::path write(const std::string& name, std::string_view content) const {
    const auto path = directory_ / name;
    std::ofstream(path, std::ios::binary)
        .write(content.data(), static_cast<std::streamsize>(content.size()));
    return path;
  }

  PairFile read(const std::string& name, std::string_view content,
                BadRows bad_rows = BadRows::kRefuse) const {
    return read_preference_pairs(write(name, content), bad_rows);
  }

  // Expects a UserError whose text holds `file:line:` and every fragment.
  void expect_refused(const std::string& name, std::string_view content, int line,
                      const std::vector<std::string>& fragments) const {
    const std::string where = (directory_ / name).string() + ":" + std::to_string(line) + ":";
    expect_message([&] { read(name, content); }, where, fragments);
  }

  static void expect_message(const std::function<void()>& call, const std::string& where,
                             const std::vector<std::string>& fragments) {
    try {
      call();
      FAIL() << "accepted; expected a complaint with " << where;
    } catch (const UserError& error) {
      const std::string message = error.what();
      EXPECT_TRUE(message.starts_with(where)) << message << "\nshould begin with " << where;
      for (const std::string& fragment : fragments) {
        EXPECT_NE(message.find(fragment), std::string::npos) << message << "\nlacks " << fragment;
      }
    }
  }

  std::filesystem::path directory_;
};

std::string describe(const PreferencePair& pair) {
  std::string text;
  for (const Message& turn : pair.prompt) {
    text += turn.role + "(" + turn.content + ")";
  }
  return text + " +" + pair.chosen[0].content + " -" + pair.rejected[0].content;
}

const std::string kHeader = "question,matching,not_matching\n";

TEST_F(PreferencePairs, CsvKeepsTextVerbatim) {
  const PairFile file = read("a.csv", kHeader + " why? , yes ,no\t\n");
  ASSERT_EQ(file.pairs.size(), 1U);
  EXPECT_EQ(describe(file.pairs[0]), "user( why? ) + yes  -no\t");
  EXPECT_EQ(file.pairs[0].where, (directory_ / "a.csv").string() + ":2");
}

TEST_F(PreferencePairs, CsvQuotedFieldsHoldCommasQuotesAndLineBreaks) {
  const PairFile file = read("a.csv", kHeader +
                                          "\"a, b\",\"say \"\"hi\"\"\",\"one\ntwo\r\nthree\"\n"
                                          "next,\"\"\"\"\"\",x\n");
  ASSERT_EQ(file.pairs.size(), 2U);
  EXPECT_EQ(describe(file.pairs[0]), "user(a, b) +say \"hi\" -one\ntwo\r\nthree");
  EXPECT_EQ(describe(file.pairs[1]), "user(next) +\"\" -x");
  EXPECT_EQ(file.pairs[1].where, (directory_ / "a.csv").string() + ":5");
}

TEST_F(PreferencePairs, CsvTakesCrLfByteOrderMarkAndAnyColumnOrder) {
  const PairFile file = read(
      "a.CSV",
      "\xEF\xBB\xBFid,not_matching,\"question\",matching\r\n1,no,q1,yes\r\n2,nein,q2,\xC3\xA4h");
  ASSERT_EQ(file.pairs.size(), 2U);
  EXPECT_EQ(describe(file.pairs[0]), "user(q1) +yes -no");
  EXPECT_EQ(describe(file.pairs[1]), "user(q2) +\xC3\xA4h -nein");
}

TEST_F(PreferencePairs, CsvIgnoresBlankLinesAtTheEndOnly) {
  EXPECT_EQ(read("a.csv", kHeader + "q,a,b\n\n \r\n").pairs.size(), 1U);
  expect_refused("a.csv", kHeader + "q,a,b\n\nq,a,b\n", 3, {"1 fields", "header has 3"});
}

// The paper's own power-seeking data have two such rows.
TEST_F(PreferencePairs, CsvTakesAnEmptyQuestion) {
  EXPECT_EQ(describe(read("a.csv", kHeader + ",a,b\n").pairs.at(0)), "user() +a -b");
}

TEST_F(PreferencePairs, CsvHeaderMustNameTheColumnsOnce) {
  expect_refused("a.csv", "question,good,bad\nq,a,b\n", 1, {"'matching'", "question,good,bad"});
  expect_refused("a.csv", "question,matching,matching,not_matching\nq,a,b,c\n", 1, {"'matching'"});
}

TEST_F(PreferencePairs, CsvBadRowsAreNamedByTheLineTheyBeginOn) {
  expect_refused("a.csv", kHeader + "\"two\nlines\",a,b\nq,a\n", 4, {"2 fields", "header has 3"});
  expect_refused("a.csv", kHeader + "q,a,b\n\"q\nq\", ,b\n", 3, {"matching is empty"});
  expect_refused("a.csv", kHeader + "q,a,\n", 2, {"not_matching is empty"});
  expect_refused("a.csv", kHeader + "q,\"a\" b,c\n", 2, {"closing quote of field 2"});
  expect_refused("a.csv", kHeader + "q,a,b\n\"x\ny\",\"open,c\nmore\n", 4,
                 {"field 2", "never closed"});
}

TEST_F(PreferencePairs, CsvTextMustBeUtf8WithoutNul) {
  expect_refused("a.csv", kHeader + "q,a,b\nq,\xE4h,b\n", 3, {"0xe4", "UTF-8"});
  expect_refused("a.csv", kHeader + std::string("q,a\0a,b\n", 8), 2, {"NUL"});
  for (const char* bad :
       {"\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE2\x82", "\x80", "\xE0\x9F\xBF"}) {
    expect_refused("a.csv", kHeader + "q," + bad + ",b\n", 2, {"UTF-8"});
  }
  for (const char* good :
       {"\xC2\x80", "\xED\x9F\xBF", "\xF4\x8F\xBF\xBF", "\xEF\xBF\xBD", "\xF0\x90\x80\x80"}) {
    EXPECT_EQ(read("a.csv", kHeader + "q," + good + ",b\n").pairs[0].chosen, good);
  }
}

TEST_F(PreferencePairs, SkippedRowsAreCollectedWithTheirReason) {
  const PairFile file = read("a.csv",
                             kHeader +
                                 "q1,a,b\n"
                                 "q2,a\n"
                                 "q3,\"a\"x,b\n"
                                 "q4,,b\n"
                                 "q5,a,b\n",
                             BadRows::kSkip);
  ASSERT_EQ(file.pairs.size(), 2U);
  EXPECT_EQ(file.pairs[1].prompt[0].content, "q5");
  ASSERT_EQ(file.skipped.size(), 3U);
  EXPECT_NE(file.skipped[0].find("a.csv:3:"), std::string::npos);
  EXPECT_NE(file.skipped[1].find("a.csv:4:"), std::string::npos);
  EXPECT_NE(file.skipped[2].find("a.csv:5:"), std::string::npos);
}

TEST_F(PreferencePairs, FilesWithoutAPairAreRefusedEvenWhenSkipping) {
  const auto expect = [&](const std::string& name, const std::string& content,
                          const std::string& fragment) {
    expect_message([&] { read(name, content, BadRows::kSkip); }, (directory_ / name).string() + ":",
                   {fragment});
  };
  expect("a.csv", "", "empty");
  expect("a.csv", "\xEF\xBB\xBF\n", "empty");
  expect("a.jsonl", "\n \n", "empty");
  expect("a.csv", kHeader, "no usable pair");
  expect("a.csv", kHeader + "q,a\n", "first bad row");
  expect("a.txt", kHeader + "q,a,b\n", ".jsonl");
}

TEST_F(PreferencePairs, MissingFilesAndDirectoriesAreRefused) {
  const auto absent = directory_ / "absent.csv";
  expect_message([&] { read_preference_pairs(absent, BadRows::kRefuse); }, absent.string(),
                 {"no such"});
  expect_message([&] { read_preference_pairs(directory_, BadRows::kRefuse); }, directory_.string(),
                 {"directory"});
}

TEST_F(PreferencePairs, JsonLinesTakeStrings) {
  const PairFile file = read("a.jsonl",
                             "\xEF\xBB\xBF{\"prompt\": \" q\\n\", \"chosen\": \"\\u00e4\", "
                             "\"rejected\": \"b\", \"id\": 7}\r\n\n"
                             "{\"prompt\":\"q2\",\"chosen\":\"c\",\"rejected\":\"d\"}");
  ASSERT_EQ(file.pairs.size(), 2U);
  EXPECT_EQ(describe(file.pairs[0]), "user( q\n) +\xC3\xA4 -b");
  EXPECT_EQ(describe(file.pairs[1]), "user(q2) +c -d");
  EXPECT_EQ(file.pairs[1].where, (directory_ / "a.jsonl").string() + ":3");
}

TEST_F(PreferencePairs, JsonLinesTakeConversations) {
  const std::string prompt = R"([{"role":"system","content":"s"},{"role":"user","content":"u"},)"
                             R"({"role":"assistant","content":"a"},{"role":"user","content":"v"}])";
  const std::string chosen = R"([{"role":"assistant","content":"yes"}])";
  const std::string rejected = R"([{"role":"assistant","content":"no","name":"x"}])";
  const std::string expected = "system(s)user(u)assistant(a)user(v) +yes -no";
  EXPECT_EQ(describe(read("a.ndjson", R"({"prompt_arr":)" + prompt + R"(,"chosen_arr":)" + chosen +
                                          R"(,"rejected_arr":)" + rejected + "}")
                         .pairs[0]),
            expected);
  EXPECT_EQ(describe(read("a.json", R"({"prompt":)" + prompt + R"(,"chosen":)" + chosen +
                                        R"(,"rejected":)" + rejected + "}")
                         .pairs[0]),
            expected);
}

TEST_F(PreferencePairs, JsonLinesTakeAnImplicitPrompt) {
  const std::string shared =
      R"({"role":"user","content":"u"},{"role":"assistant","content":"a"},{"role":"user","content":"v"},)";
  const auto row = [&](const std::string& chosen, const std::string& rejected) {
    return R"({"chosen":[)" + shared + chosen + R"(],"rejected":[)" + shared + rejected + "]}";
  };
  const std::string yes = R"({"role":"assistant","content":"yes"})";
  const std::string no = R"({"role":"assistant","content":"no"})";
  EXPECT_EQ(describe(read("a.jsonl", row(yes, no)).pairs[0]),
            "user(u)assistant(a)user(v) +yes -no");
  expect_refused("a.jsonl", row(yes + R"(,{"role":"user","content":"w"})", no), 1,
                 {"'chosen'", "exactly one assistant message"});
  expect_refused("a.jsonl", R"({"chosen":[)" + yes + R"(],"rejected":[)" + no + "]}", 1,
                 {"'prompt'", "empty array"});
  expect_refused("a.jsonl", R"({"chosen":[],"rejected":[]})", 1, {"empty array"});
}

TEST_F(PreferencePairs, JsonLinesRefuseWhatIsNoPair) {
  const auto refuse = [&](const std::string& row, const std::vector<std::string>& fragments) {
    const std::string good = R"({"prompt":"q","chosen":"a","rejected":"b"})";
    expect_refused("a.jsonl", good + "\n\n" + row + "\n", 3, fragments);
  };
  refuse(R"({"prompt":"q","chosen":"a")", {"not valid JSON"});
  refuse(R"(["q","a","b"])", {"array", "one object per line"});
  refuse(R"({"prompt":"q","chosen":"a"})", {"'rejected' is missing"});
  refuse(R"({"chosen":"a","rejected":"b"})", {"'prompt' is missing"});
  refuse(R"({"prompt_arr":[{"role":"user","content":"q"}],"chosen":"a","rejected":"b"})",
         {"'chosen_arr' is missing"});
  refuse(R"({"prompt":3,"chosen":"a","rejected":"b"})", {"'prompt'", "number"});
  refuse(R"({"prompt":"q","chosen":null,"rejected":"b"})", {"'chosen'", "null"});
  refuse(R"({"prompt":[],"chosen":"a","rejected":"b"})", {"'prompt'", "empty array"});
  refuse(R"({"prompt":"q","chosen":"a","rejected":" "})", {"rejected is empty"});
  refuse(R"({"prompt":"q","chosen":"a\u0000","rejected":"b"})", {"NUL"});
  refuse("{\"prompt\":\"q\",\"chosen\":\"\xFF\",\"rejected\":\"b\"}", {"UTF-8"});
  refuse(R"({"prompt":[{"role":"tool","content":"q"}],"chosen":"a","rejected":"b"})",
         {"'tool'", "system, user or assistant"});
  refuse(R"({"prompt":[{"role":"user","content":["q"]}],"chosen":"a","rejected":"b"})",
         {"strings role and content"});
  refuse(R"({"prompt":[{"role":"user","content":"q"},{"role":"assistant","content":"r"}],)"
         R"("chosen":"a","rejected":"b"})",
         {"must end with a user turn", "'assistant'"});
  refuse(R"({"prompt":"q","chosen":[{"role":"user","content":"a"}],"rejected":"b"})",
         {"'chosen'", "exactly one assistant message"});
}

// Parsing such a line takes no stack, but taking the conversations apart would.
TEST_F(PreferencePairs, JsonLinesRefuseALineNestedBeyondReason) {
  const std::string deep = std::string(200000, '[') + std::string(200000, ']');
  expect_refused("a.jsonl", R"({"chosen":)" + deep + R"(,"rejected":)" + deep + "}", 1,
                 {"nested more than 100"});
  EXPECT_EQ(read("b.jsonl", R"({"prompt":"[[\"{\\","chosen":"a","rejected":"b","more":[[{}]]})")
                .pairs.size(),
            1U);
  const std::string brackets(1000, '[');
  EXPECT_EQ(read("c.jsonl", R"({"prompt":")" + brackets + R"(","chosen":"a","rejected":"b"})")
                .pairs[0]
                .prompt[0]
                .content,
            brackets);
}

}  // namespace
}  // namespace bipo
