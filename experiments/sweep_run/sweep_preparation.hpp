// All that is decided and checked about a sweep before the ranks begin to work together.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "collectives/session.hpp"
#include "datasets/batches/batch_plan.hpp"
#include "experiments/runs/run_file.hpp"
#include "experiments/settings/settings.hpp"
#include "experiments/sweeps/sweep_plan.hpp"
#include "experiments/training/run_preparation.hpp"

namespace bipo {

// One model with one data set: what many cells share.
struct SweepInputs {
  NamedModel model;
  NamedData data;
  JobPreparation job;  // its topology is that of one cell
};

struct SweepPreparation {
  SweepOptions options;
  Topology topology;                // of all ranks, in groups of one cell each
  std::vector<SweepInputs> inputs;  // every model with every data set
  SweepPlan plan;
  std::string plan_text;        // of plan.json
  std::uint64_t agreement = 0;  // a hash of it

  std::vector<std::string> warnings() const;
};

// Reads and checks all inputs and cells, without communicating, before anything heavy is loaded and
// without writing or looking at the sweep's directory.  Throws one UserError that names all that is
// wrong with any of them.
SweepPreparation prepare_sweep(const SweepOptions& options, const Session& session);

// Place in `inputs` of a cell's model and data.
std::size_t inputs_of(const SweepPreparation& sweep, const Cell& cell);

// The settings with which the cell would be a training run by itself.
TrainOptions cell_options(const SweepPreparation& sweep, const Cell& cell);

// What its run file stores as `config`.
std::string cell_config(const SweepPreparation& sweep, const Cell& cell);

// Throws UserError unless `record`, of the cell's file, was made with this sweep's settings.
void check_belongs(const SweepPreparation& sweep, const Cell& cell, const RunRecord& record);

// Of the whole run, by the floor of a step.
double cell_cost(const SweepPreparation& sweep, const Cell& cell);

// Of a cell's run file when it is complete, roughly.
std::uint64_t run_file_bytes(const SweepPreparation& sweep, const Cell& cell);

// The smallest of the cache budgets that the inputs allow, bytes per node.
std::uint64_t least_cache_budget(const SweepPreparation& sweep);

// What the cached activations of the model and data set take per layer on each node.
std::uint64_t cache_bytes_per_layer(const SweepPreparation& sweep, const SweepInputs& inputs);

}  // namespace bipo
