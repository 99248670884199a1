// Runs the model over all items of an evaluation and computes its tables.
#pragma once

#include "collectives/session.hpp"
#include "experiments/evaluation/evaluation_file.hpp"
#include "experiments/evaluation_run/evaluation_job.hpp"
#include "experiments/progress/progress.hpp"
#include "trainer/model/decoder/decoder.hpp"

namespace bipo {

// The tables of `job` under `decoder`, whose weights are all loaded; attributes are left to the
// caller.  On ranks other than the root the tables stay empty.
// Collective over: dp x tp
Evaluation measure(const EvaluationJob& job, const Decoder& decoder, const Ranks& ranks,
                   ProgressDisplay& display);

}  // namespace bipo
