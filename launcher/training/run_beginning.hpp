// What a run starts with: its file's attributes, its loop's settings.
#pragma once

#include <string>

#include "collectives/session.hpp"
#include "datasets/batches/batch_plan.hpp"
#include "experiments/runs/run_file.hpp"
#include "launcher/training/run_settings.hpp"
#include "launcher/training/training_inputs.hpp"
#include "trainer/loop/training.hpp"

namespace bipo {

RunAttributes run_attributes(const RunSettings& settings, const TrainingInputs& inputs,
                             const Topology& topology, const Session& session,
                             const std::string& config, const std::string& created_utc);

// `residual_rms`: the typical size of an element of the residual stream at the layer, the unit of
// --lr-unit residual.
TrainingSettings training_settings(const RunSettings& settings, const PlanSettings& plan,
                                   double residual_rms);

}  // namespace bipo
