// The evaluation file: what vectors do to a model's answers, and what that costs, as tables in one
// HDF5 file.
//
// One rank writes it, as a new file that replaces the old one; nothing here communicates.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "experiments/evaluation/judge.hpp"
#include "experiments/evaluation/statistics.hpp"
#include "experiments/files/job_attributes.hpp"

namespace bipo {

// Rows of the tables, whose columns evaluation_file.cpp describes.  Intervals are bootstrap 95 %
// intervals over the items; log-probabilities are in nats.  A direction is "vector" (named by
// --vector), "caa", "random" or a further draw "random-2", "random-3" and so on (controls of the
// same norm at the same layer; of conceptors, see plan_steering()).

struct CurveRow {
  std::string direction;
  double multiplier = 0;
  std::int64_t pairs = 0;
  Interval accuracy;    // share with log p(chosen) > log p(rejected)
  Interval margin;      // mean of beta * delta
  Interval propensity;  // mean of log p(chosen) - log p(rejected)
  Interval propensity_per_token;
  double chosen_logp = 0;  // mean
  double rejected_logp = 0;
};

struct SteerabilityRow {
  std::string direction;
  double norm = 0;  // of what multiplier 1 adds, over all layers
  std::int64_t pairs = 0;
  Interval steerability;  // mean slope of a pair's propensity over the multipliers
  double steerability_sd = 0;
  Interval anti_steerable;  // share of slopes < 0
  Interval spearman;        // mean rank correlation of multiplier and propensity
};

// One pair at one multiplier.
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

// One question at one multiplier.
struct ChoiceItemRow {
  std::string set;
  std::string kind;
  std::string direction;
  double multiplier = 0;
  std::int64_t item = 0;     // from 0, in the file's order
  std::int64_t correct = 0;  // 0 or 1
  double probability = 0;
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

// One pair at one combination of the two multipliers.
struct GridSampleRow {
  double multiplier_1 = 0;
  double multiplier_2 = 0;
  std::int64_t pair = 0;
  double chosen_logp = 0;
  double rejected_logp = 0;
};

// A multiplier chosen on some of the pairs, and what it changes on the others.
struct ChosenRow {
  std::string direction;
  std::int64_t aim = 0;  // 1: the highest propensity, -1: the lowest
  double multiplier = 0;
  std::int64_t choosing_pairs = 0;
  double chosen_on = 0;    // mean change of propensity of those that chose
  std::int64_t pairs = 0;  // the others, behind what follows
  Interval propensity;     // mean change from the unsteered model, pair by pair
  Interval accuracy;       // the same
};

struct ChoosingPairRow {
  std::int64_t pair = 0;
  std::int64_t chooses = 0;  // 0: it reports
};

struct EvaluationAttributes : JobAttributes {
  std::string adapter;  // "" where there is none
};

struct Evaluation {
  EvaluationAttributes attributes;
  std::vector<CurveRow> curve;
  std::vector<SteerabilityRow> steerability;
  std::vector<SampleRow> samples;
  std::vector<ChosenRow> chosen;
  std::vector<ChoosingPairRow> choosing_pairs;
  std::vector<ChoiceRow> choices;
  std::vector<ChoiceItemRow> choice_items;
  std::vector<CostRow> costs;
  std::vector<GridRow> grid;
  std::vector<GridSampleRow> grid_samples;
  std::vector<JudgeSummary> judge;
  std::vector<JudgeScore> judge_scores;
  JudgeScale judge_scale;  // of the scores
};

// The newest schema_version that this program reads, and the one that it writes.  Schema 1 had
// whole judges' scores, 0 for none, on the scale from 1 to 4, and lacked the tables chosen,
// choosing_pairs, choice_items and grid_samples.
inline constexpr std::int64_t kEvaluationSchema = 2;

// Throws EnvironmentError where writing fails; the old file is then unchanged.
void write_evaluation_file(const std::filesystem::path& path, const Evaluation& evaluation);

// Returns the tables that people see (all but those of single items) as an object of lists, with
// the columns of the file as members; numbers that are not finite are null.
nlohmann::ordered_json evaluation_as_json(const Evaluation& evaluation);

// Returns the table judge alone, as a list.
nlohmann::ordered_json judge_as_json(const std::vector<JudgeSummary>& rows);

struct JudgeImport {
  std::string results;     // absolute path of the file that the scores come from
  std::uint64_t seed = 0;  // of the bootstrap intervals
  JudgeScale scale = {};
};

// Replaces an evaluation file's scores for the behaviours in `scores`, summarises all its scores,
// and records the import in config as judge_import, judge_seed and judge_scale; everything else
// stays the same.  Returns the new summary.  Throws UserError for a file that is missing, damaged,
// not an evaluation file or of a newer schema, and where it keeps scores of another scale.
std::vector<JudgeSummary> add_judge_scores(const std::filesystem::path& path,
                                           const std::vector<JudgeScore>& scores,
                                           const JudgeImport& import);

// Throws UserError unless add_judge_scores() can add to the file.
void check_evaluation_file(const std::filesystem::path& path);

}  // namespace bipo
