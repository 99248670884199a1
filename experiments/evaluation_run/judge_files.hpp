// Reads, writes and checks the files that `evaluate` exchanges with a judge: requests out, scores
// in.
#pragma once

#include <string>
#include <vector>

#include "experiments/evaluation/generations_file.hpp"
#include "experiments/evaluation/judge.hpp"
#include "experiments/settings/settings.hpp"

namespace bipo {

// Returns the lines of --judge-export, with the examples from --test and --choices-ab if the rubric
// needs them; none without --judge-export.  Throws UserError.
std::vector<std::string> judge_requests(const EvaluateOptions& options,
                                        const std::vector<Generation>& generations);

// Writes the lines if --judge-export is given.
void write_judge_requests(const EvaluateOptions& options, const std::vector<std::string>& lines);

// Reads --judge-import and checks it against the requests for `generations` if both those and
// --behaviour are given.  Throws UserError.
JudgeScores read_judge_scores(const EvaluateOptions& options,
                              const std::vector<Generation>& generations);

// Warnings about an imported judge file, one per kind of problem; that about answers without a
// score lists them.
std::vector<std::string> judge_warnings(const JudgeScores& scores, const JudgeScale& scale);

// Checks the outputs of `evaluate` against its inputs.  Throws UserError if --out or --judge-export
// cannot be written, equals an input or the other output, or exists without --overwrite.  Without
// --model, --out must be an evaluation file that accepts scores.
void check_evaluation_places(const EvaluateOptions& options);

}  // namespace bipo
