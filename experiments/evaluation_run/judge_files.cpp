#include "experiments/evaluation_run/judge_files.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "collectives/session.hpp"
#include "datasets/rows/choice_items.hpp"
#include "datasets/rows/preference_pairs.hpp"
#include "experiments/evaluation/evaluation_file.hpp"
#include "experiments/files/atomic_file.hpp"
#include "experiments/job/new_file.hpp"
#include "experiments/job/text_options.hpp"

namespace bipo {
namespace {

std::vector<std::filesystem::path> inputs_of(const EvaluateOptions& options) {
  std::vector<std::filesystem::path> inputs = {
      options.model,           options.adapter,     options.test,           options.choices_ab,
      options.choices_mc,      options.mmlu,        options.reference_text, options.neutral_prompts,
      options.caa.file,        options.generations, options.rubric,         options.judge_import,
      options.gate.vector.file};
  for (const VectorChoice& vector : options.vectors) {
    inputs.push_back(vector.file);
  }
  return inputs;
}

JudgeExamples read_examples(const EvaluateOptions& options) {
  const BadRows bad_rows = options.skip_bad ? BadRows::kSkip : BadRows::kRefuse;
  JudgeExamples examples;
  if (!options.test.empty()) {
    examples.merge(judge_examples(
        read_preference_pairs(options.test, row_options(options, options.max_test_pairs)).pairs));
  }
  if (!options.choices_ab.empty()) {
    examples.merge(judge_examples(read_ab_items(options.choices_ab, bad_rows)));
  }
  return examples;
}

void add_warning(std::vector<std::string>& warnings, const std::vector<std::string>& lines,
                 const char* what) {
  if (!lines.empty()) {
    warnings.push_back(
        fmt::format("--judge-import: {} {}; the first: {}", lines.size(), what, lines.front()));
  }
}

std::string errors_text(const JudgeScores& scores, const JudgeScale& scale) {
  constexpr std::size_t kShown = 20;
  std::string text =
      fmt::format("--judge-import: {} of {} answers have no score from {} and count as errors:",
                  scores.errors.size(), scores.scores.size(), scale.words());
  for (std::size_t i = 0; i < std::min(kShown, scores.errors.size()); ++i) {
    text += "\n  " + scores.errors[i];
  }
  if (scores.errors.size() > kShown) {
    text += fmt::format("\n  and {} more, in /judge_scores of the evaluation file",
                        scores.errors.size() - kShown);
  }
  return text;
}

}  // namespace

std::vector<std::string> judge_requests(const EvaluateOptions& options,
                                        const std::vector<Generation>& generations) {
  if (options.judge_export.empty()) {
    return {};
  }
  const JudgeRubric rubric = read_judge_rubric(options.rubric);
  const JudgeExamples examples = rubric.uses_examples ? read_examples(options) : JudgeExamples{};
  return judge_export(generations, rubric, options.behaviour, options.judge_model, examples,
                      options.judge_scale);
}

void write_judge_requests(const EvaluateOptions& options, const std::vector<std::string>& lines) {
  if (options.judge_export.empty()) {
    return;
  }
  std::string text;
  for (const std::string& line : lines) {
    text += line;
    text += '\n';
  }
  replace_file(options.judge_export, std::as_bytes(std::span(text)));
}

JudgeScores read_judge_scores(const EvaluateOptions& options,
                              const std::vector<Generation>& generations) {
  const std::vector<std::string> expected = options.behaviour.empty() || generations.empty()
                                                ? std::vector<std::string>{}
                                                : judge_ids(generations, options.behaviour);
  return judge_import(options.judge_import, expected, options.judge_scale);
}

std::vector<std::string> judge_warnings(const JudgeScores& scores, const JudgeScale& scale) {
  std::vector<std::string> warnings;
  if (!scores.errors.empty()) {
    warnings.push_back(errors_text(scores, scale));
  }
  add_warning(warnings, scores.duplicates, "lines repeat an id and are left out");
  add_warning(warnings, scores.unexpected, "lines belong to no request and are left out");
  add_warning(warnings, scores.missing, "requests have no line");
  return warnings;
}

void check_evaluation_places(const EvaluateOptions& options) {
  std::vector<std::filesystem::path> inputs = inputs_of(options);
  if (!options.model.empty()) {
    check_new_file("--out", options.out, options.overwrite, inputs);
  } else if (!options.out.empty()) {
    check_evaluation_file(options.out);
    check_replaceable(options.out);
    check_not_input("--out", options.out, inputs);
  }
  if (!options.judge_export.empty()) {
    inputs.push_back(options.out);
    check_new_file("--judge-export", options.judge_export, options.overwrite, inputs);
  }
}

}  // namespace bipo
