// Describes a run: its settings in its file, its file's attributes, the settings of its training
// loop.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "collectives/session.hpp"
#include "datasets/batches/batch_plan.hpp"
#include "experiments/progress/progress.hpp"
#include "experiments/runs/run_file.hpp"
#include "experiments/training/run_preparation.hpp"
#include "trainer/loop/training.hpp"

namespace bipo {

// `options` always belong to one run, with every `auto` resolved: a job's own, or those of one cell
// of a sweep.

// The key of what a run began with that did not begin at zero.
inline constexpr const char* kContinueFromKey = "continue_from";

// Returns a JSON object in the order of the help: what `config` in the run file holds.
// `continued`: see kContinueFromKey; null: nothing.
std::string run_config(const TrainOptions& options, const JobPreparation& job,
                       const nlohmann::ordered_json& continued = nullptr);

// `ranks`: all that work, in a sweep more than those of one cell.
std::vector<SettingGroup> run_table(const TrainOptions& options, const JobPreparation& job,
                                    const Topology& ranks);

RunAttributes run_attributes(const TrainOptions& options, const JobPreparation& job,
                             const Session& session, const std::string& config,
                             const std::string& created_utc);

// Returns about how many bytes the complete run file has.  `numbers`: of a vector.
std::uint64_t run_file_bytes(const TrainingOptions& options, const BatchPlan& plan,
                             std::int64_t numbers, std::int64_t held_out_pairs);

PlanSettings plan_settings(const TrainOptions& options, const std::vector<TokenPair>& pairs);

// S layers of a run.

// Returns the norms [S] of the residual stream, of D = hidden numbers, for their typical sizes.
std::vector<double> residual_norms(const std::vector<double>& residual_rms, std::int64_t hidden);

// Returns `residual_norms` [S], the residual stream's at the layers, where the lengths of the run's
// vectors can be held against them; none where they can not: behind an MLP with a norm, or a scale
// of each block, the stream does not move by the vector (see mlp_output_factor()).
std::vector<double> comparable_norms(const TrainOptions& options, const ModelConfig& config,
                                     const std::vector<double>& residual_norms);

// `residual_rms`: the typical size of an element of the residual stream at each layer [S]; the
// lowest one's is the unit of --lr-unit residual.
TrainingSettings training_settings(const TrainOptions& options, const PlanSettings& plan,
                                   const std::vector<double>& residual_rms,
                                   const ModelConfig& config);

// Returns the record of a new run before its first step, for each of its layers [D = hidden]; where
// it starts from a file, the caller sets the vector.  `residual_norm`: at the lowest layer, see
// Length.
TrainingRecord new_record(const TrainOptions& options, std::int64_t hidden, double residual_norm);

}  // namespace bipo
