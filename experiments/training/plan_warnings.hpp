// Warns about a batch plan before it is carried out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "datasets/batches/batch_plan.hpp"

namespace bipo {

// The command's words for what it plans.
struct PlanWording {
  const char* run;         // "the run": what has the plan's length
  const char* lr_options;  // "--lr": what the warm-up leads to
  const char* about_cut;   // added after the cut of a batch; may be ""
};

// Warns about a learning rate that is never reached, and about replicas (`dp` in all) without work.
std::vector<std::string> plan_warnings(const BatchPlan& plan, std::int64_t warmup_steps,
                                       std::int64_t micro_batch, std::int64_t dp,
                                       const PlanWording& wording);

}  // namespace bipo
