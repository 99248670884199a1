// The page that `inspect` prints, against a record whose figures are known.
#include "experiments/runs/inspect.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/experiments/sample_run.hpp"

namespace bipo {
namespace {

std::vector<std::string> lines_of(const RunRecord& record) {
  std::ostringstream out;
  print_run(out, record);
  std::istringstream in(out.str());
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) {
    lines.push_back(line);
  }
  return lines;
}

// The lines under `title` up to the next empty one.
std::vector<std::string> section(const RunRecord& record, const std::string& title) {
  std::vector<std::string> found;
  bool inside = false;
  for (const std::string& line : lines_of(record)) {
    if (inside && line.empty()) {
      break;
    }
    if (inside) {
      found.push_back(line);
    }
    inside = inside || line.starts_with(title);
  }
  return found;
}

using Lines = std::vector<std::string>;

TEST(Inspect, RunSaysWhatItWas) {
  EXPECT_EQ(section(sample_run(4), "Run"), (Lines{
                                               "  model    models/größe",
                                               "  layer    15 (hidden size 6)",
                                               "  status   running",
                                               "  created  2026-01-02T03:04:05Z",
                                               "  program  bipo-dist 0.1.0 (0123456789abcdef)",
                                               "  ranks    4 = dp 2 x tp 2",
                                               "  backend  mpi, fp32",
                                               "  hosts    node1,node2",
                                           }));
}

TEST(Inspect, ARunOfSeveralLayersNamesThem) {
  RunRecord record = sample_run(0);
  record.attributes.higher_layers = {17, 20};
  EXPECT_EQ(section(record, "Run").at(1), "  layer    15,17,20 (hidden size 6)");
  const nlohmann::ordered_json json = run_as_json(record);
  EXPECT_EQ(json["layer"], 15);
  EXPECT_EQ(json["layers"], (std::vector<std::int64_t>{15, 17, 20}));
  EXPECT_FALSE(run_as_json(sample_run(0)).contains("layers"));
}

TEST(Inspect, AVerdictStandsBelowTheRun) {
  RunRecord record = sample_run(4);
  record.attributes.verdict = "weak: no effect\x1b";
  const std::vector<std::string> lines = section(record, "Run");
  ASSERT_EQ(lines.size(), 9U);
  EXPECT_EQ(lines.back(), "  verdict  \"weak: no effect\\u001b\"");
}

TEST(Inspect, SettingsStandInTwoColumnsLongOnesBelow) {
  RunRecord record = sample_run(0);
  record.attributes.config =
      R"({"lr":0.0005,"sign":"batch","seed":11,"multipliers":[-1,0,1],"resume":false,)"
      R"("system-prompt":"","train":"a/file/with/a/long/name.csv"})";
  EXPECT_EQ(section(record, "Settings"),
            (Lines{
                "  lr             0.0005                    multipliers    [-1,0,1]",
                "  sign           batch                     resume         false",
                "  seed           11                        system-prompt  \"\"",
                "  train          a/file/with/a/long/name.csv",
            }));
}

// 999 letters, and a character of two bytes across the limit of 1000.
TEST(Inspect, ManyScreensOfASettingAreCut) {
  RunRecord record = sample_run(0);
  const std::string most(999, 'x');
  record.attributes.config = fmt::format(R"({{"imported_metadata":"{}\u00e4yy"}})", most);
  EXPECT_EQ(section(record, "Settings"),
            (Lines{"  imported_metadata  " + most + " ... (999 of 1003 bytes; --json shows all)"}));
}

TEST(Inspect, ProgressSumsTimeAndTokens) {
  // 100 + 101 + 102 + 103 tokens in 4 x 0.5 s.
  EXPECT_EQ(section(sample_run(4), "Progress"), (Lines{
                                                    "  checkpoint     4 steps done",
                                                    "  steps logged   4",
                                                    "  epochs begun   2",
                                                    "  time in steps  2.0 s",
                                                    "  tokens/s       203.0",
                                                }));
}

TEST(Inspect, FirstAndLastStepAreAligned) {
  EXPECT_EQ(section(sample_run(4), "First and last step"),
            (Lines{
                "  step  epoch          lr    loss  margin  accuracy  grad norm     |v|",
                "     0      1  5.0000e-04  0.7500  0.0000     25.0%     1.5000  0.0000",
                "     3      2  2.0000e-03  0.3750  1.5000     75.0%     4.5000  6.7500",
            }));
}

TEST(Inspect, VectorsShowTheirNorm) {
  RunRecord record = sample_run(4);
  record.vectors[0].value = {3, 0, 0, 4, 0, 0};
  record.vectors[1].value = {0, 5, 0, 0, 0, 12};
  EXPECT_EQ(section(record, "Vectors"), (Lines{
                                            "  row  epoch  steps done      |v|",
                                            "    0      1           2   5.0000",
                                            "    1      2           4  13.0000",
                                        }));
}

TEST(Inspect, VectorsOfSeveralLayersShowTheNormOfEach) {
  RunRecord record = sample_run(2);
  record.attributes.higher_layers = {17};
  record.vectors[0].value = {3, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 12};
  EXPECT_EQ(section(record, "Vectors"), (Lines{
                                            "  row  epoch  steps done      |v|  layer 15  layer 17",
                                            "    0      1           2  13.9284    5.0000   13.0000",
                                        }));
  const nlohmann::ordered_json json = run_as_json(record);
  EXPECT_EQ(json["vectors"][0]["norms"], (std::vector<double>{5, 13}));
  EXPECT_FALSE(run_as_json(sample_run(2))["vectors"][0].contains("norms"));
}

TEST(Inspect, ARepeatedRowIsTheSelectedResult) {
  RunRecord record = sample_run(6);
  record.vectors.push_back(record.vectors[1]);
  EXPECT_EQ(section(record, "Vectors").back(),
            "  the last row repeats that of epoch 2, which the run selected as its result "
            "(--select best)");
}

TEST(Inspect, EvaluationsStandByEpochAndMultiplier) {
  std::string text = "\n";
  for (const std::string& line : section(sample_run(2), "Held-out pairs")) {
    text += line + "\n";
  }
  EXPECT_EQ(text, R"(
  epoch  steps done  multiplier  pairs  accuracy   margin    loss  chosen logp  rejected logp
      1           2          -1     50     30.0%  -2.0000  0.8000      -11.000        -12.000
      1           2           0     50     50.0%   0.0000  0.7000      -10.000        -12.000
      1           2         1.5     50     80.0%   3.0000  0.5500       -8.500        -12.000
)");
}

TEST(Inspect, TheBestEpochIsNamedFromOne) {
  RunRecord record = sample_run(6);
  for (EvalRow& row : record.evals) {
    row.multiplier = row.multiplier == 1.5 ? 1 : row.multiplier;
  }
  record.evals[5].margin = 7.25;  // at +1 after the second epoch, where that at -1 is -2
  EXPECT_EQ(section(record, "Held-out pairs").back(),
            "  best epoch: 2 of 3 evaluated, held-out margin +9.2500 nats (at +1 less that at -1)");
}

TEST(Inspect, ACompleteRunThatLostItsPatienceSaysSo) {
  RunRecord record = sample_run(6);
  for (EvalRow& row : record.evals) {
    row.multiplier = row.multiplier == 1.5 ? 1 : row.multiplier;
  }
  record.attributes.config = R"({"epochs":9,"max_steps":0,"patience":2})";
  record.attributes.status = RunStatus::kComplete;
  EXPECT_EQ(section(record, "Progress").back(),
            "  ended early    no larger held-out margin in 2 evaluations (--patience)");
  record.attributes.config = R"({"epochs":3,"max_steps":0,"patience":2})";
  EXPECT_EQ(section(record, "Progress").back().find("early"), std::string::npos);
}

TEST(Inspect, NonFiniteNumbersShowAsSuch) {
  RunRecord record = sample_run(1);
  record.steps[0].loss = std::numeric_limits<double>::quiet_NaN();
  record.steps[0].grad_norm = std::numeric_limits<double>::infinity();
  const Lines lines = section(record, "First and last step");
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_NE(lines[1].find(" nan "), std::string::npos) << lines[1];
  EXPECT_NE(lines[1].find(" inf "), std::string::npos) << lines[1];
}

TEST(Inspect, AFreshRunSaysWhatIsNotThereYet) {
  const RunRecord record = sample_run(0);
  for (const char* title : {"First and last step", "Vectors", "Held-out pairs"}) {
    EXPECT_EQ(section(record, title), Lines{"  none yet"}) << title;
  }
  EXPECT_EQ(section(record, "Progress").back(), "  tokens/s       -");
}

TEST(Inspect, ACompleteRunWithoutStepsWaitsForNothing) {
  RunRecord record = sample_run(0);
  record.attributes.status = RunStatus::kComplete;
  for (const char* title : {"First and last step", "Held-out pairs"}) {
    EXPECT_EQ(section(record, title), Lines{"  none"}) << title;
  }
}

TEST(InspectAsJson, HasTheFiguresOfTheText) {
  RunRecord record = sample_run(4);
  record.vectors[0].value = {3, 0, 0, 4, 0, 0};
  const nlohmann::ordered_json json = run_as_json(record);
  EXPECT_EQ(json["layer"], 15);
  EXPECT_EQ(json["settings"]["lr"], 0.0005);
  EXPECT_EQ(json["steps_done"], 4);
  EXPECT_EQ(json["epochs_begun"], 2);
  EXPECT_EQ(json["tokens_per_second"], 203);
  EXPECT_EQ(json["first_step"]["epoch"], 1);
  EXPECT_EQ(json["last_step"]["epoch"], 2);
  EXPECT_EQ(json["last_step"]["vector_norm"], 6.75);
  EXPECT_EQ(json["vectors"][0],
            (nlohmann::ordered_json{{"row", 0}, {"epoch", 1}, {"step", 2}, {"norm", 5.0}}));
  EXPECT_EQ(json["evals"].size(), 6U);
  EXPECT_EQ(json["evals"][5]["multiplier"], 1.5);
}

TEST(InspectAsJson, WhatIsNotThereOrNotFiniteIsNull) {
  RunRecord record = sample_run(1);
  record.steps[0].loss = std::numeric_limits<double>::quiet_NaN();
  record.steps[0].grad_norm = std::numeric_limits<double>::infinity();
  const auto printed = nlohmann::json::parse(run_as_json(record).dump());
  EXPECT_TRUE(printed["first_step"]["loss"].is_null());
  EXPECT_TRUE(printed["last_step"]["grad_norm"].is_null());
  const nlohmann::ordered_json fresh = run_as_json(sample_run(0));
  EXPECT_TRUE(fresh["first_step"].is_null() && fresh["last_step"].is_null());
  EXPECT_TRUE(fresh["tokens_per_second"].is_null());
  EXPECT_EQ(fresh["vectors"], nlohmann::json::array());
}

TEST(Inspect, TextsOfTheFileCannotSteerTheTerminal) {
  RunRecord record = sample_run(0);
  record.attributes.hosts = "a\x1b[2Jb";
  record.attributes.config = R"({"system-prompt":"one\ntwo"})";
  EXPECT_EQ(section(record, "Run").back(), "  hosts    \"a\\u001b[2Jb\"");
  EXPECT_EQ(section(record, "Settings"), Lines{"  system-prompt  \"one\\ntwo\""});
}

}  // namespace
}  // namespace bipo
