// The files that `evaluate` exchanges with a judge: requests out, scores in.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "experiments/generations_file.hpp"
#include "experiments/judge.hpp"
#include "launcher/options.hpp"

namespace bipo {

// Whether --judge-export can be written.  Throws UserError.
void check_judge_export(const EvaluateOptions& options);

// Writes --judge-export, with the examples that --test and --choices-ab give where the rubric asks
// for them.  Returns the number of requests; 0 where none was asked for.  Throws UserError.
std::int64_t export_judge_requests(const EvaluateOptions& options,
                                   const std::vector<Generation>& generations);

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
