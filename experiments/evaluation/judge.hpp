// Exchanges files with language-model judges: writes requests in the OpenAI batch format, reads
// scores.  Local.
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "experiments/evaluation/generations_file.hpp"
#include "experiments/evaluation/judge_scale.hpp"
#include "experiments/evaluation/statistics.hpp"

namespace bipo {

struct ChoiceSet;       // datasets/rows/choice_items.hpp
struct PreferencePair;  // datasets/rows/preference_pairs.hpp

// A text with the placeholders {question} and {response}, and optionally {matching} and
// {not_matching}, examples of answers with the highest and the lowest score, and {scale}.
struct JudgeRubric {
  std::string text;
  bool uses_examples = false;
  bool uses_scale = false;
};

// Throws UserError for a file that is missing, empty or not UTF-8, that lacks {question} or
// {response}, or has another word in braces.
JudgeRubric read_judge_rubric(const std::filesystem::path& path);

struct JudgeExample {
  std::string matching;
  std::string not_matching;
};
// Keyed by the text of the answered user turn; the first of equal questions counts.
using JudgeExamples = std::map<std::string, JudgeExample>;
JudgeExamples judge_examples(const std::vector<PreferencePair>& pairs);
JudgeExamples judge_examples(const ChoiceSet& ab_items);

// Written as "<behaviour>:<prompt index>:<multiplier>", with the fewest digits that identify the
// multiplier.
struct JudgeId {
  std::string behaviour;
  std::int64_t prompt_index = 0;
  double multiplier = 0;
};
std::string judge_custom_id(const JudgeId& id);

// Returns one line per generation, in their order: custom_id, method, url and body with `model`,
// the filled rubric, max_tokens 10, temperature 0 and seed 42 (the settings of BiPO's evaluate.py).
// {scale} becomes "1 to 4"; a rubric without it gets a last line that names the scale, unless that
// is the default one.  Throws UserError for a behaviour that is empty, longer than 64 bytes or
// holds a colon or a control character, and where the rubric needs an example that `examples`
// lacks.
std::vector<std::string> judge_export(const std::vector<Generation>& generations,
                                      const JudgeRubric& rubric, const std::string& behaviour,
                                      const std::string& model, const JudgeExamples& examples,
                                      const JudgeScale& scale);

struct JudgeScore {
  JudgeId id;
  // NaN: the request failed, or its reply holds no score.
  double score = std::numeric_limits<double>::quiet_NaN();
  std::string answer = {};  // what came in place of a score, its beginning

  bool has_score() const { return !std::isnan(score); }
};

struct JudgeScores {
  std::vector<JudgeScore> scores;       // by behaviour, prompt index, multiplier
  std::vector<std::string> errors;      // "file:line: custom_id: why", one for each without score
  std::vector<std::string> duplicates;  // the same, for lines beyond the first of an id
  std::vector<std::string> unexpected;  // the same, for ids of another form or not in `expected`
  std::vector<std::string> missing;     // ids of `expected` without a line
};

// Reads a batch's result lines (custom_id, response.body.choices[0].message.content, error) by
// score_in_reply().  Where several lines have one id, the first with a score counts.  `expected`:
// the custom_ids of the export; empty: not known.  Throws UserError with file:line for a line that
// is not a JSON object or has no custom_id, and for a file without a score or an error.
JudgeScores judge_import(const std::filesystem::path& results,
                         const std::vector<std::string>& expected, const JudgeScale& scale);

// Returns the custom_ids of an export, in order.
std::vector<std::string> judge_ids(const std::vector<Generation>& generations,
                                   const std::string& behaviour);

struct JudgeSummary {
  std::string behaviour;
  double multiplier = 0;
  std::int64_t items = 0;   // errors included
  std::int64_t errors = 0;  // answers without a score
  Interval score;           // mean of the others
};

// Summarises scores by behaviour and multiplier.
std::vector<JudgeSummary> summarize_judge(std::span<const JudgeScore> scores, std::uint64_t seed);

}  // namespace bipo
