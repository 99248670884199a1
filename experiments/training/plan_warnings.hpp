// What to warn of in a batch plan before it is carried out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "datasets/batches/batch_plan.hpp"

namespace bipo {

// How the command speaks of what it plans.
struct PlanWording {
  const char* run;         // "the run": what has the plan's length
  const char* lr_options;  // "--lr": what the warm-up leads to
  const char* about_cut;   // after how a batch is cut; "" where nothing is to be added
};

// A learning rate that is never reached, and replicas (`dp` of them) without work.
std::vector<std::string> plan_warnings(const BatchPlan& plan, std::int64_t warmup_steps,
                                       std::int64_t micro_batch, std::int64_t dp,
                                       const PlanWording& wording);

}  // namespace bipo
