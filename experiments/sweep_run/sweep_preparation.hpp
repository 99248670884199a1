// Decides and checks everything about a sweep before the ranks begin to work together.
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

// One model with one data set, which many cells share.
struct SweepInputs {
  NamedModel model;
  NamedData data;
  JobPreparation job;  // its topology is that of one cell
};

struct SweepPreparation {
  SweepOptions options;
  Topology topology;                // all ranks, in groups of one cell each
  std::vector<SweepInputs> inputs;  // every model with every data set
  SweepPlan plan;
  std::string plan_text;        // of plan.json, where the sweep begins there
  std::uint64_t agreement = 0;  // a hash of it

  std::vector<std::string> warnings() const;
  std::vector<std::string> notes() const;  // each once
};

// Reads and checks all inputs and cells before anything large is loaded, without communicating,
// writing, or reading the sweep's directory.  Throws one UserError that names every fault.
SweepPreparation prepare_sweep(const SweepOptions& options, const Session& session);

// Packs cells of the sweep as its settings say, without regard to others.
std::vector<Pack> packs_of(const SweepPreparation& sweep, const std::vector<Cell>& cells);

// Takes the packs of its cells from the text of the plan in the sweep's directory, longest first.
// Throws UserError where that has other packs.
void adopt_packs(SweepPreparation& sweep, const std::string& text);

// Returns the index in `inputs` of a cell's model and data.
std::size_t inputs_of(const SweepPreparation& sweep, const Cell& cell);

// Returns whether a cell's objective needs the log-probabilities without a vector.
bool uses_reference(const SweepPreparation& sweep);

// Returns the settings with which the cell would be a training run by itself.
TrainOptions cell_options(const SweepPreparation& sweep, const Cell& cell);

// Returns what the cell's run file stores as `config`.
std::string cell_config(const SweepPreparation& sweep, const Cell& cell);

// Throws UserError unless `record`, read from the cell's file, was made with this sweep's settings.
void check_belongs(const SweepPreparation& sweep, const Cell& cell, const RunRecord& record);

// Returns the cost of the cell's whole run, from the floor of a step.
double cell_cost(const SweepPreparation& sweep, const Cell& cell);

// Estimates the size of a cell's complete run file.
std::uint64_t run_file_bytes(const SweepPreparation& sweep, const Cell& cell);

// Returns the smallest cache budget of all inputs, in bytes per node.
std::uint64_t least_cache_budget(const SweepPreparation& sweep);

// Returns the bytes per layer and node of the cached activations of the model and data set.
std::uint64_t cache_bytes_per_layer(const SweepPreparation& sweep, const SweepInputs& inputs);

}  // namespace bipo
