#include "launcher/evaluate/judge_files.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <iostream>
#include <span>

#include "collectives/session.hpp"
#include "datasets/rows/choice_items.hpp"
#include "datasets/rows/preference_pairs.hpp"
#include "experiments/evaluation/evaluation_file.hpp"
#include "experiments/files/atomic_file.hpp"
#include "launcher/evaluate/evaluation_places.hpp"
#include "launcher/evaluate/evaluation_report.hpp"
#include "launcher/job/stored_settings.hpp"

namespace bipo {
namespace {

JudgeExamples read_examples(const EvaluateOptions& options) {
  const BadRows bad_rows = options.skip_bad ? BadRows::kSkip : BadRows::kRefuse;
  JudgeExamples examples;
  if (!options.test.empty()) {
    examples.merge(judge_examples(read_preference_pairs(options.test, bad_rows).pairs));
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

}  // namespace

std::vector<std::string> judge_requests(const EvaluateOptions& options,
                                        const std::vector<Generation>& generations) {
  if (options.judge_export.empty()) {
    return {};
  }
  const JudgeRubric rubric = read_judge_rubric(options.rubric);
  const JudgeExamples examples = rubric.uses_examples ? read_examples(options) : JudgeExamples{};
  return judge_export(generations, rubric, options.behaviour, options.judge_model, examples);
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
  fmt::print("{} requests: {}\n", lines.size(), options.judge_export.string());
}

JudgeScores read_judge_scores(const EvaluateOptions& options,
                              const std::vector<Generation>& generations) {
  const std::vector<std::string> expected = options.behaviour.empty() || generations.empty()
                                                ? std::vector<std::string>{}
                                                : judge_ids(generations, options.behaviour);
  return judge_import(options.judge_import, expected);
}

std::vector<std::string> judge_warnings(const JudgeScores& scores) {
  std::vector<std::string> warnings;
  add_warning(warnings, scores.errors, "answers have no score");
  add_warning(warnings, scores.duplicates, "lines repeat an id and are left out");
  add_warning(warnings, scores.unexpected, "lines belong to no request and are left out");
  add_warning(warnings, scores.missing, "requests have no line");
  return warnings;
}

int run_judge_files_command(const EvaluateOptions& options) {
  check_evaluation_places(options);
  const std::vector<Generation> generations = options.generations.empty()
                                                  ? std::vector<Generation>{}
                                                  : read_generations(options.generations);
  const std::vector<std::string> requests = judge_requests(options, generations);
  if (!options.judge_import.empty()) {
    const JudgeScores scores = read_judge_scores(options, generations);
    for (const std::string& warning : judge_warnings(scores)) {
      std::cerr << "warning: " << warning << '\n';
    }
    const std::vector<JudgeSummary> summary = add_judge_scores(
        options.out, scores.scores, {absolute_text(options.judge_import), options.seed});
    fmt::print("{}evaluation file: {}\n", judge_text(summary), options.out.string());
  }
  write_judge_requests(options, requests);
  std::fflush(stdout);
  return kExitDone;
}

}  // namespace bipo
