// Generates answers on all ranks of a job.
#pragma once

#include <cstdint>

#include "collectives/session.hpp"
#include "experiments/generation_run/generation_job.hpp"
#include "experiments/job/job.hpp"
#include "trainer/model/decoder/decoder.hpp"

namespace bipo {

struct GenerationOutcome {
  std::int64_t prompts = 0;  // answered, at every multiplier
  std::int64_t tokens = 0;   // in their answers
  double seconds = 0;
};

// Generates the answers of `prepared` under `decoder`, whose weights are all loaded; the root shows
// or stores them, in the order of the prompts, each as soon as it and all before it are complete.
// Replicas share the prompts.  Ends early after a request to stop.  Throws as Session::together()
// if answers cannot be stored.  Collective over: world
GenerationOutcome generate(const GenerationJob& prepared, const Decoder& decoder,
                           const Ranks& ranks, Job& job);

}  // namespace bipo
