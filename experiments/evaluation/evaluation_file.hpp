// The evaluation file: what vectors do to a model's answers, and what that costs, as tables in one
// HDF5 file.
//
// Written whole, by one rank, as a temp file that replaces the old one; nothing here communicates.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "experiments/evaluation/judge.hpp"
#include "experiments/evaluation/statistics.hpp"

namespace bipo {

// Intervals are bootstrap 95 % intervals over the items; log-probabilities are in nats.  A
// direction is "vector" (what --vector names), "caa" or "random" (controls of the same norm at the
// same layer).

struct CurveRow {
  std::string direction;
  double multiplier = 0;
  std::int64_t pairs = 0;
  Interval accuracy;              // share with log p(chosen) > log p(rejected)
  Interval margin;                // mean of beta * delta
  Interval propensity;            // mean of log p(chosen) - log p(rejected)
  Interval propensity_per_token;  // the same with each log-probability divided by its tokens
  double chosen_logp = 0;         // mean
  double rejected_logp = 0;       // mean
};

struct SteerabilityRow {
  std::string direction;
  double norm = 0;  // of what multiplier 1 adds, over all layers
  std::int64_t pairs = 0;
  Interval steerability;       // mean per-sample slope of propensity over the multipliers
  double steerability_sd = 0;  // of the slopes, n - 1
  Interval anti_steerable;     // share of slopes < 0
  Interval spearman;           // mean per-sample rank correlation of multiplier and propensity
};

struct SampleRow {
  std::string direction;
  std::int64_t pair = 0;  // from 0, in the file's order
  double multiplier = 0;
  double chosen_logp = 0;
  double rejected_logp = 0;
  std::int64_t chosen_tokens = 0;
  std::int64_t rejected_tokens = 0;
  double slope = 0;  // of the pair, over all multipliers
};

struct ChoiceRow {
  std::string set;
  std::string kind;  // "ab", "mc", "mmlu"
  std::string direction;
  double multiplier = 0;
  std::int64_t items = 0;
  Interval accuracy;
  Interval probability;
  double macro_accuracy = 0;
};

struct CostRow {
  std::string measure;
  std::string direction;
  double multiplier = 0;
  Interval value;
  std::int64_t items = 0;
};

struct GridRow {
  double multiplier_1 = 0;
  double multiplier_2 = 0;
  std::int64_t pairs = 0;
  Interval accuracy;
  double margin = 0;
  Interval propensity;
};

struct EvaluationAttributes {
  std::string config;  // JSON object: every effective setting
  std::string program_version;
  std::string git_commit;
  std::string created_utc;  // ISO 8601
  std::string model;
  std::string adapter;  // "" where there is none
  std::int64_t hidden_size = 0;
  std::int64_t world_size = 0;
  std::int64_t dp = 0;
  std::int64_t tp = 0;
  std::string backend;
  std::string dtype;
  std::string hosts;  // comma separated
};

struct Evaluation {
  EvaluationAttributes attributes;
  std::vector<CurveRow> curve;
  std::vector<SteerabilityRow> steerability;
  std::vector<SampleRow> samples;
  std::vector<ChoiceRow> choices;
  std::vector<CostRow> costs;
  std::vector<GridRow> grid;
  std::vector<JudgeSummary> judge;
  std::vector<JudgeScore> judge_scores;
};

// schema_version this program writes, and the newest it reads.
inline constexpr std::int64_t kEvaluationSchema = 1;

// Throws EnvironmentError when writing fails; the old file is then left as it was.
void write_evaluation_file(const std::filesystem::path& path, const Evaluation& evaluation);

// Where scores come from, and how they are summarised.
struct JudgeImport {
  std::string results;     // absolute path
  std::uint64_t seed = 0;  // of the intervals
};

// Puts `scores` into the tables of an evaluation file in place of what it holds of their
// behaviours, summarises all, and names the import in config as judge_import and judge_seed;
// everything else stays as it is.  Returns the new summary.  Throws UserError for a file that is
// missing, no evaluation file, damaged or of a newer schema.
std::vector<JudgeSummary> add_judge_scores(const std::filesystem::path& path,
                                           const std::vector<JudgeScore>& scores,
                                           const JudgeImport& import);

// Throws UserError unless `path` is a file that add_judge_scores() can add to.
void check_evaluation_file(const std::filesystem::path& path);

}  // namespace bipo
