// Readers of preference data against rows written out by hand: what they accept, and each
// complaint.
#include "datasets/rows/preference_pairs.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <optional>

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

std::string gzip(const std::string& text) {
  z_stream zlib{};
  deflateInit2(&zlib, Z_BEST_COMPRESSION, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string packed(deflateBound(&zlib, text.size()), '\0');
  zlib.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  zlib.avail_in = static_cast<uInt>(text.size());
  zlib.next_out = reinterpret_cast<Bytef*>(packed.data());
  zlib.avail_out = static_cast<uInt>(packed.size());
  deflate(&zlib, Z_FINISH);
  packed.resize(zlib.total_out);
  deflateEnd(&zlib);
  return packed;
}

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
  expect_refused("a.csv", "question,good,bad\nq,a,b\n", 1, {"'matching'", "'good', 'bad'"});
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
    EXPECT_EQ(read("a.csv", kHeader + "q," + good + ",b\n").pairs[0].chosen[0].content, good);
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
  expect("a.zst", kHeader + "q,a,b\n", ".parquet");
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
  expect_refused("a.jsonl", R"({"chosen":[)" + yes + R"(],"rejected":[)" + no + "]}", 1,
                 {"differ from their first turn"});
  expect_refused("a.jsonl", R"({"chosen":[],"rejected":[]})", 1, {"empty array"});
}

TEST_F(PreferencePairs, JsonLinesRefuseWhatIsNoPair) {
  const auto refuse = [&](const std::string& row, const std::vector<std::string>& fragments) {
    const std::string good = R"({"prompt":"q","chosen":"a","rejected":"b"})";
    expect_refused("a.jsonl", good + "\n\n" + row + "\n", 3, fragments);
  };
  refuse(R"({"prompt":"q","chosen":"a")", {"not valid JSON"});
  refuse(R"(["q","a","b"])", {"array", "one whole object per line"});
  refuse(R"({"prompt":"q","chosen":"a"})", {"'rejected' is missing"});
  refuse(R"({"chosen":"a","rejected":"b"})", {"'prompt' is missing", "no common beginning"});
  refuse(R"({"query":"q","chosen":"so a","rejected":"so b"})",
         {"'prompt' is missing", "--columns prompt=query"});
  refuse(R"({"chosen":"a","rejected":[{"role":"user","content":"q"}]})",
         {"'prompt' is missing", "string and array"});
  refuse(R"({"prompt_arr":[{"role":"user","content":"q"}],"chosen":"a","rejected":"b"})",
         {"'chosen_arr' is missing"});
  refuse(R"({"prompt":3,"chosen":"a","rejected":"b"})", {"'prompt'", "number"});
  refuse(R"({"prompt":"q","chosen":null,"rejected":"b"})", {"'chosen'", "null"});
  refuse(R"({"prompt":[],"chosen":"a","rejected":"b"})", {"'prompt'", "empty array"});
  refuse(R"({"prompt":"q","chosen":"a","rejected":" "})", {"rejected is empty"});
  refuse(R"({"prompt":"q","chosen":"a\u0000","rejected":"b"})", {"NUL"});
  refuse("{\"prompt\":\"q\",\"chosen\":\"\xFF\",\"rejected\":\"b\"}", {"UTF-8"});
  refuse(R"({"prompt":[{"role":"user","content":["q"]}],"chosen":"a","rejected":"b"})",
         {"strings role and content"});
  refuse(R"({"prompt":[{"role":"user","content":"q"},{"role":"assistant","content":"r"}],)"
         R"("chosen":"a","rejected":"b"})",
         {"must end with a user turn", "'assistant'"});
  refuse(R"({"prompt":"q","chosen":[{"role":"user","content":"a"}],"rejected":"b"})",
         {"'chosen'", "must begin with an assistant turn"});
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

// ---- members and turns that reach the chat template

std::string turns(const std::vector<Message>& messages) {
  std::string text;
  for (const Message& turn : messages) {
    text += turn.role + "(" + turn.content + ")";
    if (!turn.extra.empty()) {
      text += turn.extra.dump();
    }
  }
  return text;
}

std::string whole(const PreferencePair& pair) {
  return turns(pair.prompt) + " + " + turns(pair.chosen) + " - " + turns(pair.rejected);
}

// TRL 1.16's DPOTrainer hands `tools` and the members of `chat_template_kwargs`, the latter over
// the former, and whole messages to apply_chat_template.
TEST_F(PreferencePairs, VariablesOfTheTemplateComeFromToolsAndKeywords) {
  const auto variables = [&](const std::string& members) {
    return read("a.jsonl", R"({"prompt":"q","chosen":"a","rejected":"b",)" + members + "}")
        .pairs[0]
        .template_variables.dump();
  };
  EXPECT_EQ(variables(R"("id":1)"), "{}");
  EXPECT_EQ(variables(R"("tools":[{"z":1,"a":2}])"), R"({"tools":[{"z":1,"a":2}]})");
  EXPECT_EQ(variables(R"("tools":"[{\"z\":1,\"a\":2}]")"), R"({"tools":[{"z":1,"a":2}]})");
  EXPECT_EQ(variables(R"("tools":null,"chat_template_kwargs":null)"), "{}");
  EXPECT_EQ(variables(R"("tools":[],"chat_template_kwargs":{"b":null,"a":false})"),
            R"({"tools":[],"b":null,"a":false})");
  EXPECT_EQ(variables(R"("tools":[{}],"chat_template_kwargs":{"tools":null})"),
            R"({"tools":null})");
  EXPECT_EQ(variables(R"("chat_template_kwargs":"{\"enable_thinking\": false}")"),
            R"({"enable_thinking":false})");
  const auto refuse = [&](const std::string& members, const std::vector<std::string>& fragments) {
    expect_refused("a.jsonl", R"({"prompt":"q","chosen":"a","rejected":"b",)" + members + "}", 1,
                   fragments);
  };
  refuse(R"("tools":"no json")", {"'tools'", "must be JSON"});
  refuse(R"("tools":["f"])", {"'tools'", "list of objects"});
  refuse(R"("tools":{"f":1})", {"'tools'", "list of objects"});
  refuse(R"("chat_template_kwargs":[1])", {"'chat_template_kwargs'", "object"});
  refuse(R"("chat_template_kwargs":{"add_generation_prompt":true})", {"'add_generation_prompt'"});
}

TEST_F(PreferencePairs, MembersOfMessagesAreKeptInTheirOrder) {
  const PairFile file = read(
      "a.jsonl",
      R"({"prompt":[{"role":"developer","content":"d"},{"name":"x","role":"user","content":"u"},)"
      R"({"role":"assistant","content":null,"tool_calls":[{"b":1,"a":2}]},)"
      R"({"role":"tool","content":[{"type":"text","text":"4"},{"type":"text","text":"2"}],"tool_call_id":"i"}],)"
      R"("chosen":[{"role":"assistant","content":"yes","reasoning_content":"r","thinking":null}],)"
      R"("rejected":[{"role":"assistant","tool_calls":[{}]}]})");
  EXPECT_EQ(whole(file.pairs[0]), R"(developer(d)user(u){"name":"x"})"
                                  R"(assistant(){"content":null,"tool_calls":[{"b":1,"a":2}]})"
                                  R"(tool(42){"tool_call_id":"i"})"
                                  R"( + assistant(yes){"reasoning_content":"r","thinking":null})"
                                  R"( - assistant(){"content":null,"tool_calls":[{}]})");
}

TEST_F(PreferencePairs, PartsThatAreNoTextAreRefusedByName) {
  const auto refuse = [&](const std::string& content, const std::vector<std::string>& fragments) {
    expect_refused(
        "a.jsonl",
        R"({"prompt":[{"role":"user","content":)" + content + R"(}],"chosen":"a","rejected":"b"})",
        1, fragments);
  };
  refuse(R"([{"type":"image","url":"x"}])", {"'image'", "only text"});
  refuse(R"([{"type":"text"}])", {"without the string 'text'"});
  refuse("null", {"strings role and content"});
  refuse("7", {"strings role and content"});
}

// ---- forms

constexpr const char* kUser = R"({"role":"user","content":"q"})";
constexpr const char* kYes = R"({"role":"assistant","content":"yes"})";
constexpr const char* kNo = R"({"role":"assistant","content":"no"})";

// extract_prompt of TRL 1.16: everything after the first message that differs is answer; of equal
// conversations the last message.
TEST_F(PreferencePairs, EverythingAfterTheCommonTurnsIsAnswer) {
  const auto row = [&](const std::string& chosen, const std::string& rejected) {
    return whole(read("a.jsonl", fmt::format(R"({{"chosen":[{0},{1}],"rejected":[{0},{2}]}})",
                                             kUser, chosen, rejected))
                     .pairs[0]);
  };
  const std::string more =
      R"(,{"role":"user","content":"more"},{"role":"assistant","content":"z"})";
  EXPECT_EQ(row(kYes + more, kNo + more),
            "user(q) + assistant(yes)user(more)assistant(z) - assistant(no)user(more)assistant(z)");
  EXPECT_EQ(row(kYes + more, kNo),
            "user(q) + assistant(yes)user(more)assistant(z) - assistant(no)");
  EXPECT_EQ(row(kYes + more, kYes + more),
            "user(q)assistant(yes)user(more) + assistant(z) - assistant(z)");
  EXPECT_EQ(row(kYes + more, kYes),
            "user(q) + assistant(yes)user(more)assistant(z) - assistant(yes)");
  // TRL trains on the user's turns, too, where the conversations part at one.
  EXPECT_EQ(
      whole(read("a.jsonl", fmt::format(R"({{"chosen":[{0},{1}{2}],"rejected":[{0},{1},{0},{1}]}})",
                                        kUser, kYes, more))
                .pairs[0]),
      "user(q)assistant(yes) + user(more)assistant(z) - user(q)assistant(yes)");
  expect_refused("a.jsonl",
                 R"({"chosen":[{"role":"system","content":"s"},{"role":"user","content":"a"}],)"
                 R"("rejected":[{"role":"system","content":"s"},{"role":"user","content":"b"}]})",
                 1, {"differ from their first turn"});
  expect_refused("a.jsonl",
                 fmt::format(R"({{"chosen":[{0},{1}],"rejected":[{0},{0}]}})", kUser, kYes), 1,
                 {"rejected holds no assistant turn"});
}

TEST_F(PreferencePairs, PromptBesideWholeConversationsIsNotSaidTwice) {
  const auto row = [&](const std::string& prompt) {
    return fmt::format(
        R"({{"prompt":{},"chosen":[{},{}],"rejected":[{},{}],"messages":[],"score_chosen":1}})",
        prompt, kUser, kYes, kUser, kNo);
  };
  for (const std::string& prompt :
       {std::string(R"("q")"), std::string(R"(" q\n")"), fmt::format("[{}]", kUser)}) {
    const PairFile file = read("a.jsonl", row(prompt));
    EXPECT_EQ(whole(file.pairs[0]), "user(q) + assistant(yes) - assistant(no)");
    EXPECT_NE(file.understood.find("UltraFeedback"), std::string::npos) << file.understood;
    EXPECT_NE(file.understood.find("not used: 'messages', 'score_chosen'"), std::string::npos);
  }
  expect_refused("a.jsonl", row(R"("another")"), 1, {"'prompt' is not among the turns"});
}

TEST_F(PreferencePairs, TranscriptsBecomeTurns) {
  const PairFile file = read(
      "a.jsonl",
      R"({"chosen":"\n\nHuman: Hi there\n\nAssistant: Hello.\n\nHuman: And?\n\nAssistant: Yes, so.",)"
      R"("rejected":"\n\nHuman: Hi there\n\nAssistant: Hello.\n\nHuman: And?\n\nAssistant: Yes, no."})");
  EXPECT_EQ(
      whole(file.pairs[0]),
      "user(Hi there)assistant(Hello.)user(And?) + assistant(Yes, so.) - assistant(Yes, no.)");
  EXPECT_NE(file.understood.find("1 row of the form HH-RLHF transcripts"), std::string::npos);
  RowOptions texts;
  texts.keeps_transcripts = true;
  const PairFile kept = read_preference_pairs(directory_ / "a.jsonl", texts);
  EXPECT_EQ(whole(kept.pairs[0]),
            "user(\n\nHuman: Hi there\n\nAssistant: Hello.\n\nHuman: And?\n\nAssistant: Yes,) + "
            "assistant( so.) - assistant( no.)");
  expect_refused(
      "a.jsonl",
      R"({"chosen":"\n\nHuman: Hi\n\nAssistant:","rejected":"\n\nHuman: Hi\n\nAssistant: b"})", 1,
      {"chosen is empty"});
}

// The characters in common, less a space; never a part of a character.
TEST_F(PreferencePairs, TextsWithACommonBeginning) {
  const auto row = [&](const std::string& chosen, const std::string& rejected) {
    return whole(
        read("a.jsonl", R"({"chosen":")" + chosen + R"(","rejected":")" + rejected + R"("})")
            .pairs[0]);
  };
  EXPECT_EQ(row("Why? It is", "Why? So it"), "user(Why?) + assistant( It is) - assistant( So it)");
  EXPECT_EQ(row("Why?\\nA", "Why?\\nB"), "user(Why?\n) + assistant(A) - assistant(B)");
  EXPECT_EQ(row("ab", "abc"), "user(a) + assistant(b) - assistant(bc)");
  EXPECT_EQ(row("na\u00e4", "na\u00eb"), "user(na) + assistant(\xC3\xA4) - assistant(\xC3\xAB)");
}

TEST_F(PreferencePairs, FormsOfOtherProjects) {
  const auto both = [&](const std::string& row) { return whole(read("a.jsonl", row).pairs[0]); };
  EXPECT_EQ(both(R"({"question":"q","answer_matching_behavior":" Yes",)"
                 R"("answer_not_matching_behavior":" No","statement":"s"})"),
            "user(q) + assistant( Yes) - assistant( No)");
  EXPECT_EQ(both(R"({"system":"s","question":"q","chosen":"a","rejected":"b"})"),
            "system(s)user(q) + assistant(a) - assistant(b)");
  EXPECT_EQ(both(R"({"system":"","input":"q","chosen":"a","rejected":"b"})"),
            "user(q) + assistant(a) - assistant(b)");
  EXPECT_EQ(both(R"({"system":"s","prompt":"q","chosen":"a","rejected":"b"})"),
            "system(s)user(q) + assistant(a) - assistant(b)");
  EXPECT_EQ(
      both(R"({"instruction":"i","input":"x","chosen":"a","rejected":"b","history":[["p","r"]]})"),
      "user(p)assistant(r)user(i\nx) + assistant(a) - assistant(b)");
  EXPECT_EQ(both(R"({"instruction":"i","chosen_response":"a","rejected_response":"b"})"),
            "user(i) + assistant(a) - assistant(b)");
  EXPECT_EQ(both(R"({"conversations":[{"from":"system","value":"s"},{"from":"human","value":"q"}],)"
                 R"("chosen":{"from":"gpt","value":"a"},"rejected":{"from":"gpt","value":"b"}})"),
            "system(s)user(q) + assistant(a) - assistant(b)");
  EXPECT_EQ(both(R"({"question":"q","chosen":[)" + std::string(kUser) + "," + kYes +
                 R"(],"rejected":[)" + kUser + "," + kNo + "]}"),
            "user(q) + assistant(yes) - assistant(no)");
}

TEST_F(PreferencePairs, TruthfulQaMakesOnePairOrAll) {
  const std::string text =
      "Type,Question,Best Answer,Best Incorrect Answer,Correct Answers,Incorrect Answers,Source\n"
      "x,q1,r1,w1,r1; r2,w1; w2;,u\n";
  EXPECT_EQ(describe(read("a.csv", text).pairs.at(0)), "user(q1) +r1 -w1");
  RowOptions options;
  options.answer_pairs = AnswerPairs::kAll;
  const PairFile all = read_preference_pairs(directory_ / "a.csv", options);
  ASSERT_EQ(all.pairs.size(), 4U);
  EXPECT_EQ(describe(all.pairs[1]), "user(q1) +r1 -w2");
  EXPECT_EQ(describe(all.pairs[2]), "user(q1) +r2 -w1");
  EXPECT_NE(all.understood.find("1 row of the form TruthfulQA, 4 pairs"), std::string::npos)
      << all.understood;
  EXPECT_EQ(describe(read("b.jsonl", R"({"question":"q","best_answer":"r","correct_answers":["r"],)"
                                     R"("incorrect_answers":["w","v"]})")
                         .pairs.at(0)),
            "user(q) +r -w");
}

TEST_F(PreferencePairs, RowsThatHoldSomethingElseAreNamed) {
  const auto refuse = [&](const std::string& row, const std::string& fragment) {
    expect_refused("a.jsonl", row, 1, {fragment});
  };
  refuse(R"({"prompt":"q","completion":"a","label":true})", "KTO");
  refuse(R"({"question":"q","A":"a","B":"b","matching":"A"})", "--choices-ab");
  refuse(R"({"messages":[]})", "without a rejected answer");
  refuse(R"({"a":"q","b":"a"})", "'prompt', 'chosen', 'rejected' are missing");
  refuse(R"({"a":"q"})", "the row has 'a'");
}

TEST_F(PreferencePairs, ColumnsCanBeNamed) {
  RowOptions options;
  options.columns = parse_columns("prompt=the query,chosen=good,rejected=bad");
  const auto path = write("a.csv", "id,the query,good,bad,prompt\n1,q,a,b,old\n");
  const PairFile file = read_preference_pairs(path, options);
  EXPECT_EQ(describe(file.pairs.at(0)), "user(q) +a -b");
  EXPECT_NE(file.understood.find("columns not used: 'id'"), std::string::npos) << file.understood;
  options.columns = parse_columns("prompt=question,chosen=good");
  expect_message([&] { read_preference_pairs(path, options); },
                 path.string() + ":1:", {"no column 'question'", "'the query', 'good'"});
  options.columns = parse_columns("prompt=");
  const auto hidden = write("b.jsonl", R"({"prompt":"x","chosen":"So a","rejected":"So b"})");
  EXPECT_EQ(describe(read_preference_pairs(hidden, options).pairs.at(0)), "user(So) + a - b");
  for (const char* bad : {"prompt", "promt=x", "prompt=a,prompt=b", "=x"}) {
    EXPECT_THROW(parse_columns(bad), UserError) << bad;
  }
}

// ---- samples

TEST_F(PreferencePairs, SamplesAreTheFirstPairsOrThoseOfASeed) {
  std::string text = kHeader;
  for (char row = 'a'; row <= 'j'; ++row) {
    text += std::string(1, row) + ",y,n\n";
  }
  const auto path = write("a.csv", text);
  const auto sample = [&](std::int64_t count, std::optional<std::uint64_t> seed) {
    RowOptions options;
    options.max_pairs = count;
    options.seed = seed;
    std::string questions;
    for (const PreferencePair& pair : read_preference_pairs(path, options).pairs) {
      questions += pair.prompt[0].content;
    }
    return questions;
  };
  EXPECT_EQ(sample(0, {}), "abcdefghij");
  EXPECT_EQ(sample(3, {}), "abc");
  EXPECT_EQ(sample(99, {}), "abcdefghij");
  const std::string shuffled = sample(0, 7);
  EXPECT_NE(shuffled, "abcdefghij");
  EXPECT_EQ(sample(4, 7), shuffled.substr(0, 4));
  EXPECT_NE(sample(0, 8), shuffled);
  std::string sorted = shuffled;
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(sorted, "abcdefghij");
  RowOptions options;
  options.max_pairs = 2;
  EXPECT_NE(read_preference_pairs(path, options).understood.find("2 of the 10 pairs taken"),
            std::string::npos);
}

TEST_F(PreferencePairs, WhatWasUnderstoodIsOneLine) {
  const PairFile file = read("a.csv",
                             "question,matching,not_matching,id\n\"two\nlines\"," +
                                 std::string(60, 'y') + ",no,1\nq,a\nq,a,b,2\n",
                             BadRows::kSkip);
  EXPECT_EQ(
      file.understood,
      (directory_ / "a.csv").string() +
          ": 2 rows of the form question/matching/not_matching; first pair: \"two\\nlines\" -> "
          "\"" +
          std::string(48, 'y') + "...\" rather than \"no\"; columns not used: 'id'");
}

// ---- containers

TEST_F(PreferencePairs, TablesMayBeSeparatedByTabs) {
  EXPECT_EQ(describe(read("a.tsv", "prompt\tchosen\trejected\nq, r\ta\tb\n").pairs.at(0)),
            "user(q, r) +a -b");
  expect_refused("a.csv", "prompt;chosen;rejected\nq;a;b\n", 1, {"one column", ".tsv"});
  expect_refused("b.csv", "prompt,chosen,rejected\n\"[{'role': 'user', 'content': 'q'}]\",a,b\n", 2,
                 {"'prompt'", "list of messages"});
}

TEST_F(PreferencePairs, ArraysOfJsonAreReadRowByRow) {
  const std::string text =
      "[\n  {\"prompt\": \"q\",\n   \"chosen\": \"a]\", \"rejected\": \"b\"},\n  {\"prompt\": "
      "\"r\"},\n"
      "  {\"prompt\": \"s\", \"chosen\": \"c\", \"rejected\": \"d\"}\n]\n";
  const PairFile file = read("a.json", text, BadRows::kSkip);
  ASSERT_EQ(file.pairs.size(), 2U);
  EXPECT_EQ(describe(file.pairs[0]), "user(q) +a] -b");
  EXPECT_EQ(file.pairs[1].where, (directory_ / "a.json").string() + ":5");
  ASSERT_EQ(file.skipped.size(), 1U);
  EXPECT_NE(file.skipped[0].find("a.json:4: the keys 'chosen"), std::string::npos);
  const std::string row = R"({"prompt":"q","chosen":"a","rejected":"b"})";
  EXPECT_EQ(read("b.json", "[" + row + "]").pairs.size(), 1U);
  EXPECT_EQ(read("c.json", row + "\n" + row).pairs.size(), 2U);
  expect_refused("d.json", "[\n" + row + ",\n]", 3, {"comma", "remove"});
  expect_refused("d.json", "[\n" + row, 2, {"not closed"});
  expect_refused("d.json", "[" + row + "]\nx", 2, {"text follows"});
  expect_refused("d.json", "[" + row + ",, " + row + "]", 1, {"missing before the comma"});
  expect_refused("d.json", "[\n7]", 2, {"number instead of an object"});
  expect_refused("d.jsonl", R"({"prompt":"q",})", 1, {"a comma stands before the closing '}'"});
  expect_refused("d.jsonl", "{'prompt':'q'}", 1, {"single quotes"});
  expect_message([&] { read("e.json", "{\n\"data\": [" + row + "]}"); },
                 (directory_ / "e.json").string(), {"one JSON object", "member 'data'"});
}

TEST_F(PreferencePairs, GzipIsUnpacked) {
  const std::string packed = gzip("prompt,chosen,rejected\nq,a,b\n");
  EXPECT_EQ(describe(read("a.csv.gz", packed).pairs.at(0)), "user(q) +a -b");
  EXPECT_EQ(read("a.csv.gz", packed + gzip("q,a,b\n")).pairs.size(), 2U);
  const auto path = (directory_ / "b.csv.gz").string();
  expect_message([&] { read("b.csv.gz", packed.substr(0, packed.size() - 12)); }, path,
                 {"cut short"});
  std::string damaged = packed;
  damaged[12] = static_cast<char>(damaged[12] ^ 0x55);
  expect_message([&] { read("b.csv.gz", damaged); }, path, {"gzip file is"});
  const std::string bomb = gzip("prompt,chosen,rejected\nq,a," + std::string(100U << 20U, 'b'));
  expect_message([&] { read("b.csv.gz", bomb); }, path, {"unpacks to more than 64 times"});
}

TEST_F(PreferencePairs, PartsOfASetAreNamedTogether) {
  const std::string row = R"({"prompt":"q","chosen":"a","rejected":"b"})";
  write("train-00000-of-00002.jsonl", row);
  write("train-00001-of-00002.jsonl", row + "\n" + row);
  write("test.csv", kHeader + "q,a,b\n");
  EXPECT_EQ(read_preference_pairs(directory_ / "train", BadRows::kRefuse).pairs.size(), 3U);
  expect_message([&] { read_preference_pairs(directory_, BadRows::kRefuse); }, directory_.string(),
                 {"is a directory", "test.csv", (directory_ / "train").string()});
  std::filesystem::remove(directory_ / "train-00000-of-00002.jsonl");
  expect_message([&] { read_preference_pairs(directory_ / "train", BadRows::kRefuse); },
                 directory_.string(), {"1 of the 2 parts"});
}

}  // namespace
}  // namespace bipo
