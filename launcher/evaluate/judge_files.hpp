// The files that `evaluate` exchanges with a judge: requests out, scores in.
#pragma once

#include <string>
#include <vector>

#include "experiments/evaluation/generations_file.hpp"
#include "experiments/evaluation/judge.hpp"
#include "launcher/options/options.hpp"

namespace bipo {

// The lines of --judge-export, with the examples that --test and --choices-ab give where the rubric
// asks for them; none where that is not given.  Throws UserError.
std::vector<std::string> judge_requests(const EvaluateOptions& options,
                                        const std::vector<Generation>& generations);

// Writes them and prints how many there are, where --judge-export is given.
void write_judge_requests(const EvaluateOptions& options, const std::vector<std::string>& lines);

// --judge-import, held against the requests of `generations` where those and --behaviour are given.
// Throws UserError.
JudgeScores read_judge_scores(const EvaluateOptions& options,
                              const std::vector<Generation>& generations);

// What of an import is not as it should be, one line for each kind.
std::vector<std::string> judge_warnings(const JudgeScores& scores);

// `evaluate` without --model: writes --judge-export, adds --judge-import to the file --out.
// Returns the exit code.  Throws UserError.
int run_judge_files_command(const EvaluateOptions& options);

}  // namespace bipo
