// Runs the model over all items of an evaluation and computes its tables.
#pragma once

#include <vector>

#include "collectives/session.hpp"
#include "experiments/evaluation/evaluation_file.hpp"
#include "experiments/evaluation_run/evaluation_job.hpp"
#include "experiments/progress/progress.hpp"
#include "trainer/model/decoder/decoder.hpp"

namespace bipo {

// Return what is scored of held-out pairs and of questions, in their order.  Local.
std::vector<Continuations> items_of(const std::vector<TokenPair>& pairs);
std::vector<Continuations> items_of(const ChoiceQuestions& questions);

// Returns whether vectors act at any of the settings [S][M]: whether prompts' gates are decided.
bool steers(const std::vector<std::vector<double>>& coefficients);

// Returns the tables of `job` under `decoder`, whose weights are all loaded; the caller sets the
// attributes.  The tables stay empty on ranks other than the root.  Collective over: dp x tp
Evaluation measure(const EvaluationJob& job, const Decoder& decoder, const Ranks& ranks,
                   ProgressDisplay& display);

}  // namespace bipo
