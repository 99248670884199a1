// The files that `evaluate` exchanges with a judge: requests out, scores in.
#pragma once

#include <string>
#include <vector>

#include "experiments/evaluation/generations_file.hpp"
#include "experiments/evaluation/judge.hpp"
#include "experiments/settings/settings.hpp"

namespace bipo {

// The lines of --judge-export, with the examples that --test and --choices-ab give where the rubric
// asks for them; none where that is not given.  Throws UserError.
std::vector<std::string> judge_requests(const EvaluateOptions& options,
                                        const std::vector<Generation>& generations);

// Writes them and prints how many there are, where --judge-export is given.
void write_judge_requests(const EvaluateOptions& options, const std::vector<std::string>& lines);

// Reads --judge-import and checks it against the requests of `generations` where those and
// --behaviour are given. Throws UserError.
JudgeScores read_judge_scores(const EvaluateOptions& options,
                              const std::vector<Generation>& generations);

// Warnings about an imported judge file, one per kind of problem.
std::vector<std::string> judge_warnings(const JudgeScores& scores);

// Checks where `evaluate` writes against what it reads.  Throws UserError where --out or
// --judge-export cannot be written, is one of the inputs or the other of the two, or exists without
// --overwrite.  Without --model, --out must be an evaluation file that takes scores.
void check_evaluation_places(const EvaluateOptions& options);

}  // namespace bipo
