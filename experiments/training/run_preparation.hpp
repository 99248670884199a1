// Decides and checks everything about a training run before the ranks begin to work together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "collectives/session.hpp"
#include "datasets/batches/batch_plan.hpp"
#include "datasets/batches/prefix_packs.hpp"
#include "experiments/files/atomic_file.hpp"
#include "experiments/job/computation.hpp"
#include "experiments/runs/run_file.hpp"
#include "experiments/settings/field.hpp"
#include "experiments/training/training_inputs.hpp"

namespace bipo {

// The preparation that the cells of a sweep share, and that a single run has too.
struct JobPreparation {
  // With every `auto` resolved, except for cache_budget, see choose_cache_budget(), and
  // warmup_steps, which depend on the run.
  TrainOptions options;
  TrainingInputs inputs;
  Computation computation;
  std::vector<std::string> warnings;
  std::uint64_t work_bytes = 0;  // of a device, that the work on a micro-batch may take
  std::string unrecorded;        // why it is not recorded as a graph where it could be
  // Tokens of a pack of the pass over all pairs on a device, and the bytes that one takes there at
  // least: see choose_packs().
  std::int64_t device_pack = kTokensPerDevicePack;
  std::uint64_t pack_bytes = 0;
};

struct RunPreparation {
  JobPreparation job;
  PlanSettings plan;
  std::optional<RunRecord> previous;  // the run that --resume continues
  // What a new run begins with by --continue-from, for each of its layers [D]; empty: zeros.
  std::vector<float> start;
  std::optional<FileVersion> found;  // what was at --out before it was read
  std::string created_utc;           // the first start of the run
  std::string config;                // see run_config()
  std::uint64_t agreement = 0;       // equal on ranks that start the same run from the same state
};

// Reads and checks everything but the places of results, without communicating and before anything
// large is loaded.  `topology` arranges the ranks that train together.  Uses `micro_batch` if the
// options set none; without either, deals the batch to the replicas.  Ignores options.layer.
// Throws UserError.
JobPreparation prepare_job(const TrainOptions& options, const Topology& topology,
                           std::optional<std::int64_t> micro_batch, const Session& session);

// Says how many training pairs have no token that `positions` steer, and which teach the vector of
// the model's last block nothing, where that is among `layers`.  Throws UserError where nothing
// could be trained.
std::vector<std::string> unsteered_warnings(const TrainingInputs& inputs,
                                            const SteeredPositions& positions,
                                            const SteeredLayers& layers);

// Returns the bytes on this rank's device of the weights of `blocks` with head and final norm, and
// with the embedding where that is loaded.
std::uint64_t weight_bytes(const JobPreparation& job, Range blocks, bool embedding);

// Returns the bytes of each node that activations of `pairs` at one layer take where they are kept.
std::uint64_t activation_bytes(const JobPreparation& job, const std::vector<TokenPair>& pairs);

// Returns whether activations of `pairs` at so many layers are kept: whether they fit into `budget`
// (bytes of a node), from which they then take what they need.  Training pairs come first.
bool keeps_activations(const JobPreparation& job, const std::vector<TokenPair>& pairs,
                       std::size_t layers, std::uint64_t& budget);

// Decides how much may be cached for training at `layers` (ascending), and checks that weights and
// everything else fit.  Throws UserError.
void choose_cache_budget(JobPreparation& job, const std::vector<std::int64_t>& layers,
                         const Session& session);

// Returns what the start-up table shows of a job beside its settings; `ranks` are all that work.
SettingNotes job_notes(const TrainOptions& options, const JobPreparation& job,
                       const Topology& ranks);

// Prepares one run, which begins at `now` unless it continues another.  A dry run is prepared
// without what only a run needs: the hash of the weights, room for caches.  Throws UserError.
RunPreparation prepare_run(const TrainOptions& options, const std::string& now,
                           const Session& session);

}  // namespace bipo
