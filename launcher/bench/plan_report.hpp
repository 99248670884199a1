// Writes a run's plan as text and as JSON.
#pragma once

#include <string>

#include "trainer/cost/run_plan.hpp"

namespace bipo {

std::string plan_text(const PlanRequest& request, const RunPlan& plan);
std::string plan_json(const PlanRequest& request, const RunPlan& plan);

}  // namespace bipo
