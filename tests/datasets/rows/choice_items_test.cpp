// Multiple-choice files: what is read, what is refused, and the texts that the model is asked.
#include "datasets/rows/choice_items.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "collectives/foundation/errors.hpp"
#include "datasets/template/chat_template.hpp"
#include "datasets/tokens/choice_tokens.hpp"
#include "datasets/tokens/tokenization.hpp"
#include "tests/datasets/character_model.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::expect_parts;
using testing::ids;

class ChoiceItems : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    directory_ = fs::path(::testing::TempDir()) / ("bipo_choices_" + name);
    fs::create_directories(directory_);
    options_.max_length = 10000;
  }
  void TearDown() override { fs::remove_all(directory_); }

  fs::path write(const std::string& name, const std::string& content) const {
    const fs::path path = directory_ / name;
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }

  ChoiceSet ab(const std::string& rows, BadRows bad_rows = BadRows::kRefuse) const {
    return read_ab_items(write("tone.csv", rows), bad_rows);
  }
  ChoiceSet mc(const std::string& rows, BadRows bad_rows = BadRows::kRefuse) const {
    return read_mc_items(write("mc.jsonl", rows), bad_rows);
  }

  template <typename Read>
  void expect_refused(const Read& read, std::vector<std::string> parts) const {
    expect_parts(error_of<UserError>(read), parts);
  }

  TokenizedChoices tokenize(const ChoiceSet& set) const {
    testing::write_character_model(directory_, testing::kChatMl);
    const ChatTemplate chat_template =
        ChatTemplate(read_chat_template_source(directory_), {"auto", testing::kSomeDate});
    const Tokenizer tokenizer = Tokenizer::from_file(directory_ / "tokenizer.json");
    const SpecialTokens special = {testing::kBos, testing::kTurnEnd, {}, {testing::kBos}};
    return tokenize_choices(set, {chat_template, tokenizer, special, options_, 303});
  }

  fs::path directory_;
  TokenizeOptions options_;
};

// "question: right+ wrong- ...", with 1 and 2 for what counts in MC1 and MC2 alone.
std::string describe(const ChoiceItem& item) {
  std::string text = item.question + ":";
  for (const Choice& choice : item.choices) {
    text += " " + choice.text + (choice.right ? "+" : "-");
    text += choice.in_mc1 && choice.in_mc2 ? "" : choice.in_mc1 ? "1" : "2";
  }
  return text;
}

const std::string kAb = "question,A,B,matching\n";

TEST_F(ChoiceItems, AbRowsInAnyColumnOrder) {
  const ChoiceSet set = ab("id,matching,B,A,question\n1,A,no,yes,q1\n2,(B),\"a, b\",c,\"q\n2\"\n");
  EXPECT_EQ(set.name, "tone");
  EXPECT_EQ(choice_kind_name(set.kind), "ab");
  ASSERT_EQ(set.items.size(), 2U);
  EXPECT_EQ(describe(set.items[0]), "q1: yes+ no-");
  EXPECT_EQ(describe(set.items[1]), "q\n2: c- a, b+");
  EXPECT_EQ(set.items[1].where, (directory_ / "tone.csv").string() + ":3");
}

TEST_F(ChoiceItems, AbRowsThatAreNoneAreRefused) {
  const auto refuse = [&](const std::string& rows, const std::vector<std::string>& parts) {
    expect_refused([&] { ab(rows); }, parts);
  };
  refuse("question,A,B\nq,a,b\n", {"tone.csv:1:", "'matching'", "question, A, B and matching"});
  refuse(kAb + "q,a,b,A\nq,a,b,C\n", {"tone.csv:3:", "'C'", "A or B"});
  refuse(kAb + "q,a,b,a\n", {"tone.csv:2:", "'a'"});
  refuse(kAb + "q,a,b,\n", {"tone.csv:2:", "A or B"});
  refuse(kAb + "q,a,b\n", {"tone.csv:2:", "3 fields", "the header has 4"});
  refuse(kAb + "q,, b,A\n", {"tone.csv:2:", "A is empty"});
  refuse(kAb + " ,a,b,A\n", {"question is empty"});
  refuse(kAb + "q,\xFF,b,A\n", {"tone.csv:2:", "UTF-8"});
  refuse(kAb, {"no usable item"});
  refuse("\n", {"empty"});
  expect_refused([&] { read_ab_items(directory_ / "absent.csv", BadRows::kSkip); }, {"absent.csv"});
}

TEST_F(ChoiceItems, BadRowsMayBeSkipped) {
  const ChoiceSet set = ab(kAb + "q,a,b,C\nr,a,b,A\n", BadRows::kSkip);
  EXPECT_EQ(set.items.size(), 1U);
  ASSERT_EQ(set.skipped.size(), 1U);
  EXPECT_NE(set.skipped[0].find("tone.csv:2:"), std::string::npos);
  expect_refused([&] { ab(kAb + "q,a,b,C\n", BadRows::kSkip); },
                 {"no usable item", "first bad row", "tone.csv:2:"});
}

TEST_F(ChoiceItems, McRowsWithListsOfChoices) {
  const ChoiceSet set =
      mc("{\"question\":\"q\",\"choices\":[\"x\",\"y\",\"z\"],\"labels\":[0,1,1]}\n\n"
         "{\"question\":\"r\",\"choices\":[\"x\",\"y\"],\"labels\":[true,false],\"id\":3}");
  EXPECT_EQ(choice_kind_name(set.kind), "mc");
  ASSERT_EQ(set.items.size(), 2U);
  EXPECT_EQ(describe(set.items[0]), "q: x- y+ z+");
  EXPECT_EQ(describe(set.items[1]), "r: x+ y-");
  EXPECT_EQ(set.items[1].where, (directory_ / "mc.jsonl").string() + ":3");
}

TEST_F(ChoiceItems, TruthfulQaHasTwoSetsOfTargets) {
  const std::string item =
      R"({"question":"q","mc1_targets":{"a":1,"b":0,"e":0},"mc2_targets":{"a":1,"b":0,"c":1,"d":0}})";
  EXPECT_EQ(describe(mc(item).items.at(0)), "q: a+ b- e-1 c+2 d-2");
  const std::string lists = R"({"question":"r","mc1_targets":{"choices":["a","b"],"labels":[1,0]},)"
                            R"("mc2_targets":{"choices":["c","a","b"],"labels":[1,1,0]}})";
  EXPECT_EQ(describe(mc(lists).items.at(0)), "r: a+ b- c+2");
  // The project's own file is one array over several lines.
  const ChoiceSet array = mc(" [\n" + item + ",\n" + lists + "\n]\n");
  ASSERT_EQ(array.items.size(), 2U);
  EXPECT_EQ(describe(array.items[1]), "r: a+ b- c+2");
  EXPECT_TRUE(array.items[1].where.ends_with("mc.jsonl: item 2"));
}

TEST_F(ChoiceItems, McRowsThatAreNoneAreRefused) {
  const std::string good = R"({"question":"q","choices":["x","y"],"labels":[0,1]})";
  const auto refuse = [&](const std::string& row, std::vector<std::string> parts) {
    parts.emplace_back("mc.jsonl:2:");
    expect_refused([&] { mc(good + "\n" + row); }, parts);
  };
  refuse("[]", {"object"});
  refuse("{", {"not valid JSON"});
  refuse(R"({"choices":["x","y"],"labels":[0,1]})", {"'question'"});
  refuse(R"({"question":"q","labels":[0,1]})", {"'choices' is missing"});
  refuse(R"({"question":"q","choices":["x","y"],"labels":[0]})", {"2 choices but 1 labels"});
  refuse(R"({"question":"q","choices":["x","y"],"labels":[0,0]})", {"0 of the 2 labels"});
  refuse(R"({"question":"q","choices":["x","y"],"labels":[1,1]})", {"2 of the 2 labels"});
  refuse(R"({"question":"q","choices":[],"labels":[]})", {"0 of the 0 labels"});
  refuse(R"({"question":"q","choices":["x","y"],"labels":[0,2]})", {"label 2", "0 or 1"});
  refuse(R"({"question":"q","choices":["x",7],"labels":[0,1]})", {"choice 2", "string"});
  refuse(R"({"question":"q","choices":["x"," "],"labels":[0,1]})", {"a choice is empty"});
  refuse(R"({"question":"q","choices":["x","x"],"labels":[0,1]})", {"'x'", "wrong in another"});
  refuse(R"({"question":"q","mc1_targets":{"a":1,"b":0}})", {"'mc2_targets'"});
  refuse(R"({"question":"q","mc1_targets":{"a":1,"b":0},"mc2_targets":{"a":0,"b":1}})",
         {"right in one place"});
  refuse(R"({"question":"q","mc1_targets":{"a":0,"b":0},"mc2_targets":{"a":0,"b":1}})",
         {"0 of the 2 labels of 'mc1_targets'"});
  expect_refused([&] { mc("[" + good + ",3]"); }, {"mc.jsonl: item 2", "object"});
  expect_refused([&] { mc("[]"); }, {"no usable item"});
  EXPECT_EQ(mc(good + "\n[]\n", BadRows::kSkip).skipped.size(), 1U);
}

std::string five(const std::string& row) {
  return row + "\n" + row + "\n" + row + "\n" + row + "\n" + row + "\n";
}

TEST_F(ChoiceItems, MmluFilesAndDirectories) {
  const fs::path file = write("data/law_test.csv", "\"q, 1\",a,b,c,d,C\nq2,a,b,c,d,A\n");
  write("data/law_dev.csv", five("dq,da,db,dc,dd,B") + "sixth,a,b,c,d,A\n");
  write("data/astronomy_test.csv", "s,a,b,c,d,D\n");
  write("data/astronomy_dev.csv", five("ds,a,b,c,d,A"));
  write("data/law_val.csv", "other\n");
  const ChoiceSet one = read_mmlu_items(file, BadRows::kRefuse);
  EXPECT_EQ(choice_kind_name(one.kind), "mmlu");
  ASSERT_EQ(one.items.size(), 2U);
  EXPECT_EQ(describe(one.items[0]), "q, 1: a- b- c+ d-");
  EXPECT_EQ(one.items[0].subject, "law");
  ASSERT_EQ(one.shots.at("law").size(), 5U);
  EXPECT_EQ(describe(one.shots.at("law")[4]), "dq: da- db+ dc- dd-");
  const ChoiceSet all = read_mmlu_items(directory_ / "data/", BadRows::kRefuse);
  EXPECT_EQ(all.name, "data");
  ASSERT_EQ(all.items.size(), 3U);
  EXPECT_EQ(all.items[0].subject, "astronomy");
  EXPECT_EQ(all.items[2].where, file.string() + ":2");
}

TEST_F(ChoiceItems, MmluAsItsArchiveIsLaidOut) {
  write("mmlu/test/law_test.csv", "q,a,b,c,d,C\n");
  write("mmlu/dev/law_dev.csv", five("dq,a,b,c,d,B"));
  EXPECT_EQ(read_mmlu_items(directory_ / "mmlu", BadRows::kRefuse).shots.at("law").size(), 5U);
  EXPECT_EQ(read_mmlu_items(directory_ / "mmlu/test/law_test.csv", BadRows::kRefuse).items.size(),
            1U);
}

TEST_F(ChoiceItems, MmluErrors) {
  const auto read = [&](const fs::path& path) {
    return [=] { read_mmlu_items(path, BadRows::kSkip); };
  };
  const fs::path law = write("law_test.csv", "q,a,b,c,d,C\n");
  expect_refused(read(law), {"law_test.csv:", "law_dev.csv is missing", "five"});
  expect_refused(read(directory_), {"law_dev.csv is missing"});
  write("law_dev.csv", "q,a,b,c,d,C\n");
  expect_refused(read(law), {"law_dev.csv", "1 examples"});
  write("law_dev.csv", five("q,a,b,c,d,E"));
  expect_refused(read(law), {"law_dev.csv:1:", "'E'", "A, B, C or D"});
  write("law_dev.csv", five("q,a,b,c,d,A"));
  write("law_test.csv", "q,a,b,c,C\n");
  expect_refused(read(law), {"law_test.csv:1:", "5 fields", "question, A, B, C, D, answer"});
  write("law_test.csv", "q,a,b,c,d,CD\nq,a,b,,d,C\nq,a,b,c,d,C\n");
  const ChoiceSet some = read_mmlu_items(law, BadRows::kSkip);
  EXPECT_EQ(some.items.size(), 1U);
  EXPECT_EQ(some.skipped.size(), 2U);
  expect_refused(read(write("law.csv", "q,a,b,c,d,C\n")), {"<subject>_test.csv"});
  write("empty/readme", "");
  expect_refused(read(directory_ / "empty"), {"empty: holds no file <subject>_test.csv"});
  expect_refused(read(directory_ / "absent_test.csv"), {"absent_test.csv", "no such"});
}

TEST_F(ChoiceItems, AbIsAskedAsCaaAsksIt) {
  options_.system_prompt = "s";
  const TokenizedChoices result = tokenize(ab(kAb + "Why?,Yes.,No way,B\n"));
  ASSERT_EQ(result.items.size(), 1U);
  EXPECT_EQ(result.items[0].tokens.prompt,
            ids("<system\ns>\n<user\nWhy?\n\nChoices:\n (A) Yes.\n (B) No way>\n<assistant\n"));
  EXPECT_EQ(result.items[0].tokens.answers,
            (std::vector<std::vector<TokenId>>{ids("(A"), ids("(B")}));
  EXPECT_TRUE(result.items[0].tokens.where.ends_with("tone.csv:2"));
}

TEST_F(ChoiceItems, McIsAskedAsAQuestion) {
  const TokenizedChoices result =
      tokenize(mc(R"({"question":"q","choices":["x y","z"],"labels":[0,1]})"));
  EXPECT_EQ(result.items.at(0).tokens.prompt, ids("<user\nq>\n<assistant\n"));
  EXPECT_EQ(result.items.at(0).tokens.answers,
            (std::vector<std::vector<TokenId>>{ids("x y>"), ids("z>")}));
}

TEST_F(ChoiceItems, MmluIsPlainTextWithFiveExamples) {
  const fs::path file = write("us_history_test.csv", "Q?,a,b,c,d,C\n");
  write("us_history_dev.csv",
        "d1,p,q,r,s,A\nd2,p,q,r,s,B\nd3,p,q,r,s,C\nd4,p,q,r,s,D\nd5,p,q,r,s,A\n");
  options_.system_prompt = "s";
  const auto shot = [](int number, char letter) {
    return "d" + std::to_string(number) + "\nA. p\nB. q\nC. r\nD. s\nAnswer: " + letter + "\n\n";
  };
  const std::string head =
      "!The following are multiple choice questions (with answers) about us history.\n\n";
  const std::string question = "Q?\nA. a\nB. b\nC. c\nD. d\nAnswer:";
  const std::string shots = shot(1, 'A') + shot(2, 'B') + shot(3, 'C') + shot(4, 'D');
  // The one merge of the test's tokenizer is a line break with the A behind it.
  const auto merged = [](const std::string& text) {
    std::vector<TokenId> tokens;
    for (const TokenId id : ids(text)) {
      if (id == 'A' && !tokens.empty() && tokens.back() == '\n') {
        tokens.back() = testing::kLineBreakThenA;
      } else {
        tokens.push_back(id);
      }
    }
    return tokens;
  };
  const ChoiceSet set = read_mmlu_items(file, BadRows::kRefuse);
  const TokenizedChoices whole = tokenize(set);
  const std::vector<TokenId> expected = merged(head + shots + shot(5, 'A') + question);
  EXPECT_EQ(whole.items.at(0).tokens.prompt, expected);
  EXPECT_EQ(whole.items.at(0).tokens.answers,
            (std::vector<std::vector<TokenId>>{ids(" A"), ids(" B"), ids(" C"), ids(" D")}));
  EXPECT_EQ(whole.fewer_shots, 0);

  options_.max_length = static_cast<std::int64_t>(expected.size()) + 2;
  EXPECT_EQ(tokenize(set).fewer_shots, 0);
  --options_.max_length;
  const TokenizedChoices cut = tokenize(set);
  EXPECT_EQ(cut.items.at(0).tokens.prompt, merged(head + shots + question));
  EXPECT_EQ(cut.fewer_shots, 1);

  options_.max_length = 20;
  expect_refused([&] { tokenize(set); }, {"us_history_test.csv:1: ", "limit is 20"});
  options_.bad_rows = BadRows::kSkip;
  expect_refused([&] { tokenize(set); }, {"every item", "--skip-bad"});
}

TEST_F(ChoiceItems, ItemsThatDoNotFitAreNamed) {
  const ChoiceSet set = ab(kAb + "q,a,b,A\na much longer question,a,b,A\n");
  options_.max_length = 60;
  expect_refused([&] { tokenize(set); }, {"tone.csv:3: ", "limit is 60"});
  options_.bad_rows = BadRows::kSkip;
  const TokenizedChoices some = tokenize(set);
  ASSERT_EQ(some.items.size(), 1U);
  EXPECT_EQ(some.items[0].item, 0U);
  EXPECT_EQ(some.skipped.size(), 1U);
}

}  // namespace
}  // namespace bipo
