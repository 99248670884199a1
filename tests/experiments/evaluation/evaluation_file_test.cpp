// Tables from log-probabilities worked out by hand, and the file that keeps them.
#include "experiments/evaluation/evaluation_file.hpp"

#include <gtest/gtest.h>
#include <hdf5.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <type_traits>

#include "collectives/foundation/errors.hpp"
#include "experiments/evaluation/evaluation_tables.hpp"
#include "experiments/evaluation/multiplier_choice.hpp"
#include "experiments/files/hdf5.hpp"
#include "tests/experiments/sample_run.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

using testing::error_of;
using testing::expect_parts;
namespace fs = std::filesystem;

// Three pairs at the multipliers -1, 0 and 2: propensities 1, 2, 4 (slope 1), 3, 0, -6 (slope -3),
// and 0, 0, 0.
DirectionScores three_pairs() {
  DirectionScores scores{"vector", 2.5, {-1, 0, 2}, {}};
  scores.pairs = {{{-2, -3, 2, 4}, {-1, -4, 1, 2}, {-5, -5, 5, 5}},
                  {{-1, -3, 2, 4}, {-2, -2, 1, 2}, {-5, -5, 5, 5}},
                  {{-1, -5, 2, 4}, {-7, -1, 1, 2}, {-6, -6, 5, 5}}};
  return scores;
}

Evaluation evaluation_of_three_pairs() {
  Evaluation evaluation;
  const DirectionScores scores = three_pairs();
  add_direction(evaluation, scores, scores.pairs[1], {0.5, 11});
  return evaluation;
}

TEST(EvaluationTables, SlopesAreThoseOfTheLines) {
  const Evaluation evaluation = evaluation_of_three_pairs();
  ASSERT_EQ(evaluation.samples.size(), 9U);
  EXPECT_NEAR(evaluation.samples[0].slope, 1, 1e-15);
  EXPECT_NEAR(evaluation.samples[4].slope, -3, 1e-15);
  EXPECT_EQ(evaluation.samples[8].slope, 0);
  EXPECT_EQ(evaluation.samples[7].pair, 1);
  EXPECT_EQ(evaluation.samples[7].rejected_logp, -1);
  EXPECT_EQ(evaluation.samples[7].chosen_tokens, 1);
  ASSERT_EQ(evaluation.steerability.size(), 1U);
  const SteerabilityRow& row = evaluation.steerability[0];
  EXPECT_EQ(row.norm, 2.5);
  EXPECT_EQ(row.pairs, 3);
  EXPECT_NEAR(row.steerability.value, -2.0 / 3, 1e-15);
  // Deviations 5/3, -7/3, 2/3: (25 + 49 + 4) / 9 / 2.
  EXPECT_NEAR(row.steerability_sd, std::sqrt(78.0 / 18), 1e-15);
  EXPECT_NEAR(row.anti_steerable.value, 1.0 / 3, 1e-15);
  EXPECT_NEAR(row.spearman.value, 0, 1e-15);  // 1, -1 and 0
  EXPECT_LE(row.steerability.low, row.steerability.value);
  EXPECT_GE(row.steerability.high, row.steerability.value);
}

TEST(EvaluationTables, CurveHasMeansOfThePairs) {
  const Evaluation evaluation = evaluation_of_three_pairs();
  ASSERT_EQ(evaluation.curve.size(), 3U);
  const CurveRow& row = evaluation.curve[2];
  EXPECT_EQ(row.multiplier, 2);
  EXPECT_EQ(row.pairs, 3);
  EXPECT_NEAR(row.accuracy.value, 1.0 / 3, 1e-15);              // a tie is a miss
  EXPECT_NEAR(row.margin.value, 0.5 * (2 - 6 + 0) / 3, 1e-15);  // beta times what changed
  EXPECT_NEAR(row.propensity.value, (4.0 - 6 + 0) / 3, 1e-15);
  EXPECT_NEAR(row.propensity_per_token.value, ((-0.5 + 1.25) + (-7 + 0.5) + 0) / 3, 1e-15);
  EXPECT_NEAR(row.chosen_logp, -14.0 / 3, 1e-15);
  EXPECT_NEAR(row.rejected_logp, -12.0 / 3, 1e-15);
  EXPECT_EQ(evaluation.curve[1].margin.value, 0);
  const DirectionScores scores = three_pairs();
  const GridRow grid = grid_row(1, -2, scores.pairs[2], scores.pairs[1], {0.5, 11});
  EXPECT_EQ(grid.multiplier_2, -2);
  EXPECT_EQ(grid.margin, row.margin.value);
  EXPECT_EQ(grid.accuracy.low, row.accuracy.low);
  EXPECT_EQ(grid.propensity.value, row.propensity.value);
}

TEST(EvaluationTables, CostsWeighItemsByTheirTokens) {
  const std::vector<TokenSum> items = {{-2, 1}, {-4, 3}};
  const CostRow perplexity = perplexity_row({"p", "vector", 1}, items, 3);
  EXPECT_NEAR(perplexity.value.value, std::exp(6.0 / 4), 1e-14);
  EXPECT_EQ(perplexity.items, 2);
  const CostRow mean = mean_per_token_row({"k", "random", -1}, items, 3);
  EXPECT_NEAR(mean.value.value, -1.5, 1e-15);
  EXPECT_EQ(mean.direction, "random");
  // Both items are the first, or both the second, in some of the resamples.
  EXPECT_EQ(mean.value.low, -2);
  EXPECT_NEAR(mean.value.high, -4.0 / 3, 1e-15);
}

Generation generation(std::int64_t prompt, double multiplier, const std::string& text) {
  Generation row;
  row.prompt_index = prompt;
  row.multiplier = multiplier;
  row.text = text;
  return row;
}

TEST(EvaluationTables, TextMeasuresLeaveOutWhatIsTooShort) {
  const std::vector<CostRow> rows =
      text_rows({generation(0, 1, "a a b a"), generation(1, 1, "c"), generation(0, -1, "")}, 5);
  const auto value = [&](const std::string& measure, double multiplier) {
    for (const CostRow& row : rows) {
      if (row.measure == measure && row.multiplier == multiplier) {
        return std::pair(row.value.value, row.items);
      }
    }
    return std::pair(-1.0, std::int64_t{0});
  };
  EXPECT_EQ(value("distinct_1", 1), std::pair(0.75, std::int64_t{2}));  // 2 of 4, 1 of 1
  EXPECT_EQ(value("distinct_2", 1), std::pair(1.0, std::int64_t{1}));   // aa ab ba
  EXPECT_EQ(value("distinct_1", -1).second, 0);
  EXPECT_EQ(value("refusal_rate", -1), std::pair(0.0, std::int64_t{1}));
}

// Four pairs at 1, 2 and -1, whose propensities are their changes: of the choosing pairs, 0 and 2,
// 2 raises propensity by more; on the others it lowers it.
TEST(MultiplierChoice, IsReportedOnThePairsThatDidNotChoose) {
  const auto pairs = [](const std::vector<double>& changes) {
    std::vector<PairLogProbs> made;
    for (const double change : changes) {
      made.push_back({-5 + change, -5, 1, 1});
    }
    return made;
  };
  DirectionScores scores{"vector", 1, {1, 2, -1}, {}};
  scores.pairs = {pairs({1, 4, 1, 4}), pairs({3, -1, 2, -2}), pairs({-1, -1, -1, -3})};
  Evaluation evaluation;
  add_chosen(evaluation, scores, pairs({0, 0, 0, 0}), {true, false, true, false}, 11);
  ASSERT_EQ(evaluation.chosen.size(), 2U);
  const ChosenRow& highest = evaluation.chosen[0];
  EXPECT_EQ(highest.direction, "vector");
  EXPECT_EQ(highest.aim, 1);
  EXPECT_EQ(highest.multiplier, 2);
  EXPECT_EQ(highest.choosing_pairs, 2);
  EXPECT_DOUBLE_EQ(highest.chosen_on, 2.5);
  EXPECT_EQ(highest.pairs, 2);
  EXPECT_DOUBLE_EQ(highest.propensity.value, -1.5);
  EXPECT_DOUBLE_EQ(highest.propensity.low, -2);
  EXPECT_DOUBLE_EQ(highest.propensity.high, -1);
  EXPECT_EQ(highest.accuracy.value, 0);  // a tie is a miss, and so is what falls
  const ChosenRow& lowest = evaluation.chosen[1];
  EXPECT_EQ(lowest.aim, -1);
  EXPECT_EQ(lowest.multiplier, -1);
  EXPECT_DOUBLE_EQ(lowest.propensity.value, -2);
}

TEST(MultiplierChoice, DrawsAShareOfThePairsByTheSeed) {
  const auto count = [](const std::vector<bool>& chooses) {
    return std::count(chooses.begin(), chooses.end(), true);
  };
  const std::vector<bool> half = draw_choosing_pairs(101, 0.5, 11);
  EXPECT_EQ(half.size(), 101U);
  EXPECT_EQ(count(half), 51);
  EXPECT_EQ(draw_choosing_pairs(101, 0.5, 11), half);
  EXPECT_NE(draw_choosing_pairs(101, 0.5, 12), half);
  EXPECT_NE(draw_choosing_pairs(101, 0.5, 11 + (std::uint64_t{1} << 32)), half);
  EXPECT_EQ(count(draw_choosing_pairs(10, 0.01, 11)), 1);
  EXPECT_EQ(count(draw_choosing_pairs(10, 0.99, 11)), 9);
  EXPECT_EQ(count(draw_choosing_pairs(2, 0.5, 11)), 1);
  // Some 250 of the first 500 of 1,000 pairs choose; five standard errors are 40.
  const std::vector<bool> many = draw_choosing_pairs(1000, 0.5, 3);
  EXPECT_NEAR(static_cast<double>(std::count(many.begin(), many.begin() + 500, true)), 250, 40);
  expect_parts(error_of<UserError>([] { draw_choosing_pairs(1, 0.5, 11); }),
               {"--choose-on", "1 held-out pair ", "at least two"});
}

// A directory of its own, removed at the end.
class EvaluationFile : public ::testing::Test {
 protected:
  EvaluationFile()
      : directory_(fs::temp_directory_path() /
                   ("bipo_evaluation_" + std::to_string(getpid()) + "_" +
                    ::testing::UnitTest::GetInstance()->current_test_info()->name())),
        path_(directory_ / "eval.h5") {
    fs::create_directories(directory_);
  }
  ~EvaluationFile() override { fs::remove_all(directory_); }

  fs::path directory_;
  fs::path path_;
};

Evaluation sample_evaluation() {
  Evaluation evaluation = evaluation_of_three_pairs();
  evaluation.attributes = {{R"({"seed":11})", "0.1.0", "abc", "2026-01-02T03:04:05Z", "model", 48,
                            2, 2, 1, "mpi", "fp32", "here"},
                           ""};
  evaluation.choices.push_back(
      {"naïve", "ab", "vector", 1, 7, {0.5, 0.25, 0.75}, {0.6, 0.5, 0.7}, 0.5});
  return evaluation;
}

// A column as it lies in the file.
struct StoredColumn {
  std::string name;
  std::size_t size = 0;             // bytes of each value
  std::vector<std::string> values;  // their bytes
};

// The columns of a table, by HDF5 itself.
std::vector<StoredColumn> read_columns_of(const fs::path& path, const std::string& table) {
  const hdf5::Handle file = hdf5::open_file(path.string());
  const hdf5::Handle dataset(H5Dopen2(file.id(), table.c_str(), H5P_DEFAULT), H5Dclose);
  const hdf5::Handle row(H5Dget_type(dataset.id()), H5Tclose);
  const hdf5::Handle space(H5Dget_space(dataset.id()), H5Sclose);
  const auto rows = static_cast<std::size_t>(H5Sget_simple_extent_npoints(space.id()));
  std::string bytes(rows * H5Tget_size(row.id()), '\0');
  EXPECT_GE(H5Dread(dataset.id(), row.id(), H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()), 0);
  std::vector<StoredColumn> columns;
  for (unsigned i = 0; i < static_cast<unsigned>(H5Tget_nmembers(row.id())); ++i) {
    char* name = H5Tget_member_name(row.id(), i);
    const hdf5::Handle type(H5Tget_member_type(row.id(), i), H5Tclose);
    StoredColumn column{name, H5Tget_size(type.id()), {}};
    H5free_memory(name);
    for (std::size_t place = 0; place < rows; ++place) {
      column.values.push_back(bytes.substr(
          place * H5Tget_size(row.id()) + H5Tget_member_offset(row.id(), i), column.size));
    }
    columns.push_back(column);
  }
  return columns;
}

template <typename T>
std::vector<T> column_of(const fs::path& path, const std::string& table, const std::string& name) {
  for (const auto& column : read_columns_of(path, table)) {
    if (column.name != name) {
      continue;
    }
    std::vector<T> values;
    for (const std::string& bytes : column.values) {
      if constexpr (std::is_same_v<T, std::string>) {
        values.emplace_back(bytes.c_str());
      } else {
        EXPECT_EQ(column.size, sizeof(T));
        std::memcpy(&values.emplace_back(), bytes.data(), sizeof(T));
      }
    }
    return values;
  }
  ADD_FAILURE() << "no column " << name;
  return {};
}

TEST_F(EvaluationFile, ColumnsReadBackAsTheyWereWritten) {
  write_evaluation_file(path_, sample_evaluation());
  EXPECT_EQ(column_of<std::string>(path_, "choices", "set"), std::vector<std::string>{"naïve"});
  EXPECT_EQ(column_of<double>(path_, "choices", "accuracy_high"), std::vector<double>{0.75});
  EXPECT_EQ(column_of<std::int64_t>(path_, "choices", "items"), std::vector<std::int64_t>{7});
  EXPECT_EQ(column_of<double>(path_, "samples", "multiplier"),
            (std::vector<double>{-1, -1, -1, 0, 0, 0, 2, 2, 2}));
  EXPECT_TRUE(column_of<double>(path_, "grid", "margin").empty());
  EXPECT_NO_THROW(check_evaluation_file(path_));
}

TEST_F(EvaluationFile, ScoresOfAJudgeAreAddedInPlace) {
  write_evaluation_file(path_, sample_evaluation());
  const auto before = read_columns_of(path_, "curve");
  add_judge_scores(path_, {{{"warmth", 0, 1}, 4}, {{"warmth", 1, 1}}, {{"warmth", 0, -1}, 2}},
                   {"/a/first.jsonl", 11});
  const auto summary = add_judge_scores(path_, {{{"power", 0, 1}, 3}}, {"/a/second.jsonl", 11});
  ASSERT_EQ(summary.size(), 3U);  // power at 1, warmth at -1 and 1
  EXPECT_EQ(summary[2].items, 2);
  EXPECT_EQ(summary[2].errors, 1);
  EXPECT_EQ(summary[2].score.value, 4);
  EXPECT_EQ(column_of<std::string>(path_, "judge_scores", "behaviour"),
            (std::vector<std::string>{"power", "warmth", "warmth", "warmth"}));
  // A behaviour that comes again takes the place of its old scores.
  add_judge_scores(path_, {{{"warmth", 5, 2}, 1}}, {"/a/third.jsonl", 12});
  EXPECT_EQ(column_of<std::int64_t>(path_, "judge_scores", "prompt"),
            (std::vector<std::int64_t>{0, 5}));
  const auto after = read_columns_of(path_, "curve");
  ASSERT_EQ(after.size(), before.size());
  for (std::size_t i = 0; i < before.size(); ++i) {
    EXPECT_EQ(after[i].name, before[i].name);
    EXPECT_TRUE(after[i].values == before[i].values) << before[i].name;
  }
  const auto file = hdf5::open_file(path_.string());
  EXPECT_EQ(hdf5::read_text_attribute(file, "config"),
            R"({"seed":11,"judge_import":"/a/third.jsonl","judge_seed":12,"judge_scale":"1-4"})");
  EXPECT_EQ(hdf5::read_integer_attribute(file, "hidden_size"), 48);
}

// Opens the file for a change by another program.
void change(const std::filesystem::path& path, const std::function<void(hid_t)>& change) {
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  ASSERT_GE(file, 0);
  change(file);
  H5Fclose(file);
}

TEST_F(EvaluationFile, OneFileHasScoresOfOneScale) {
  const auto import = [&](const char* behaviour, double score, const char* scale) {
    add_judge_scores(path_, {{{behaviour, 0, 1}, score}}, {"r", 11, parse_judge_scale(scale)});
  };
  write_evaluation_file(path_, sample_evaluation());
  import("warmth", 0, "0-2");
  EXPECT_EQ(column_of<double>(path_, "judge_scores", "score"), std::vector<double>{0});
  EXPECT_EQ(column_of<double>(path_, "judge", "score"), std::vector<double>{0});
  EXPECT_EQ(column_of<std::int64_t>(path_, "judge", "errors"), std::vector<std::int64_t>{0});
  expect_parts(error_of<UserError>([&] { import("power", 3, "1-4"); }),
               {"eval.h5", "'warmth'", "0-2", "1-4", "--judge-scale 0-2"});
  import("warmth", 3, "1-4");  // replaces all scores
  import("power", 4, "1-4");
  EXPECT_EQ(column_of<double>(path_, "judge_scores", "score"), (std::vector<double>{4, 3}));
}

struct Schema1Score {
  JudgeId id;
  std::int64_t score = 0;
};

// Makes the file one that a program of schema 1 wrote, with the scores 4 and none of a judge.
void make_schema_1(hid_t id) {
  const hdf5::Handle file(id, [](hid_t) { return herr_t{0}; });
  for (const char* name :
       {"judge_scores", "chosen", "choosing_pairs", "choice_items", "grid_samples"}) {
    H5Ldelete(id, name, H5P_DEFAULT);
  }
  using Row = Schema1Score;
  hdf5::Table<Row>("judge_scores")
      .column("behaviour", "text", "", &Row::id, &JudgeId::behaviour)
      .column("prompt", "1", "", &Row::id, &JudgeId::prompt_index)
      .column("multiplier", "1", "", &Row::id, &JudgeId::multiplier)
      .column("score", "1 to 4", "0: no score", &Row::score)
      .write(file, {{{"warmth", 0, 1}, 4}, {{"warmth", 1, 1}, 0}});
  H5Adelete(id, "checksum");
  H5Adelete(id, "schema_version");
  hdf5::write_attribute(file, "schema_version", 1);
  hdf5::write_attributes_checksum(file);
}

TEST_F(EvaluationFile, FilesOfSchema1TakeScores) {
  write_evaluation_file(path_, sample_evaluation());
  const auto before = read_columns_of(path_, "curve");
  change(path_, make_schema_1);
  const auto summary = add_judge_scores(path_, {{{"power", 0, 1}, 3}}, {"r", 11});
  ASSERT_EQ(summary.size(), 2U);
  EXPECT_EQ(summary[1].items, 2);
  EXPECT_EQ(summary[1].errors, 1);
  EXPECT_EQ(summary[1].score.value, 4);
  const auto scores = column_of<double>(path_, "judge_scores", "score");
  ASSERT_EQ(scores.size(), 3U);
  EXPECT_EQ(scores[0], 3);
  EXPECT_EQ(scores[1], 4);
  EXPECT_TRUE(std::isnan(scores[2]));
  EXPECT_EQ(read_columns_of(path_, "curve").front().values, before.front().values);
  add_judge_scores(path_, {{{"power", 0, 1}, 2}}, {"r", 11});  // now of schema 2
}

TEST_F(EvaluationFile, WhatOthersAddedIsKept) {
  write_evaluation_file(path_, sample_evaluation());
  change(path_, [](hid_t file) {
    H5Gclose(H5Gcreate2(file, "mine", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  });
  for (int round = 0; round < 2; ++round) {
    add_judge_scores(path_, {{{"warmth", 0, 1}, 4}}, {"/a/first.jsonl", 11});
    EXPECT_NO_THROW(hdf5::open_group(hdf5::open_file(path_.string()), "mine")) << round;
  }
}

TEST_F(EvaluationFile, ChangedTablesAreNamed) {
  const auto add = [&] { add_judge_scores(path_, {{{"warmth", 0, 1}, 4}}, {"results", 11}); };
  write_evaluation_file(path_, sample_evaluation());
  change(path_, [](hid_t file) {
    const hsize_t none = 0;
    const hid_t table = H5Dopen2(file, "curve", H5P_DEFAULT);
    H5Dset_extent(table, &none);
    H5Dclose(table);
  });
  expect_parts(error_of<UserError>(add), {"eval.h5", "changed", "'curve'", "checksum"});
}

TEST_F(EvaluationFile, OtherFilesAreRefused) {
  const auto add = [&] { add_judge_scores(path_, {{{"warmth", 0, 1}, 4}}, {"results", 11}); };
  expect_parts(error_of<UserError>(add), {"eval.h5", "no such file", "evaluate"});
  std::ofstream(path_) << "no HDF5";
  expect_parts(error_of<UserError>(add), {"eval.h5", "damaged"});
  write_run_file(path_, sample_run(3));
  expect_parts(error_of<UserError>(add), {"eval.h5", "not an evaluation file", "kind"});
  std::ifstream still(path_, std::ios::binary);
  EXPECT_GT(std::distance(std::istreambuf_iterator<char>(still), {}), 1000);
}

}  // namespace
}  // namespace bipo
