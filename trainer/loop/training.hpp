// The training loop: from cached activations to a vector.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "collectives/session.hpp"
#include "datasets/batches/batch_plan.hpp"
#include "trainer/cache/activation_cache.hpp"
#include "trainer/intervention/layers.hpp"
#include "trainer/intervention/positions.hpp"
#include "trainer/objective/objective.hpp"
#include "trainer/optimizer/optimizer.hpp"
#include "trainer/records/records.hpp"

namespace bipo {

// A factor on the vector that is trained with it (Bao et al., arXiv 2605.05983): the
// update of v and that of the factor f are AdamW steps from d/dv = f d/dw and d/df = v . d/dw,
// where w = f v is what steers.  Neither weight decay nor clipping applies to f.
struct FactorTraining {
  double lr = 0.01;  // absolute; the schedule is the vector's
  double start = 1;  // not 0
};

struct TrainingSettings {
  PlanSettings plan;
  double lr = 5e-4;  // absolute: the factor of `--lr-unit residual` is already applied
  Objective objective;
  SteeredPositions positions;
  AdamW optimizer;
  Schedule schedule = Schedule::kCosine;
  NormControl norm;                      // of each part, without the learned factor
  std::optional<FactorTraining> factor;  // none: it is not learned, and the plan's factors apply
  double max_grad_norm = 1;
  std::int64_t warmup_steps = 100;
  std::vector<double> multipliers = {-1, 0, 1};
  std::int64_t eval_every = 1;  // epochs; 0: never
  double save_every = 30;       // seconds
  bool ends_with_best = false;  // the saved result is the vector of best_epoch(), not the last one
  // Evaluations without a better held-out margin after which the training is complete; 0: none.
  std::int64_t patience = 0;
  // Norm of the residual stream at the layers, of several over all of them as the vector's, which
  // is measured by it; 0: not known, or no measure of it.
  double residual_norm = 0;
};

// Receives the loop's progress, saves its record and requests stops.
class TrainingObserver {
 public:
  virtual ~TrainingObserver() = default;

  // Called on every rank, with the same rows (durations aside).
  virtual void on_step(const StepRow& row) = 0;
  virtual void on_evaluation(const std::vector<EvalRow>& rows) = 0;

  // Called on every rank when the vector has diverged (see train()); the record, with the last
  // finite vector, has just been saved as such.  Unless it throws, the other members of the pack
  // continue without this vector.
  virtual void on_failure(const std::string& reason) = 0;

  // Called on every rank when the vector is out of patience before the others of its pack, which
  // continue without it; the record has just been saved as complete.
  virtual void on_early_end() {}

  // Called on a rank where something went wrong that changes no result.
  virtual void on_warning(const std::string&) {}

  // Called on world rank 0 only, by LastStep also on another thread, but never while on_failure(),
  // on_early_end() or stop_requested() of a member of the pack runs.  The record's last vector is
  // the checkpoint's; that of a complete run with `ends_with_best` is the best epoch's once more.
  virtual void save(const TrainingRecord& record, RunStatus status) = 0;

  // Polled on every rank after each step; true on one rank stops all ranks at the same step.
  virtual bool stop_requested() const = 0;
};

// Throws BugError unless, at v = 0, training's path gives the reference log-probabilities within
// the rounding error of float32 sums (also with bfloat16, where both take the same products in the
// same micro-batches).  Collective over: dp x tp
void check_zero_vector(const Decoder& decoder, const ActivationCache& cache, std::int64_t layer,
                       const Ranks& ranks);

// One vector of a pack, with a part for every steered layer.  The record starts from
// `record.checkpoint` (a vector of zeros at step 0, or a saved state) and ends the same on every
// rank.
struct TrainingMember {
  TrainingSettings settings;
  TrainingRecord& record;
  TrainingObserver& observer;
};

// Lets another thread save the last completed step while train() is in the next one.
class LastStep {
 public:
  // Saves all members that have not failed as interrupted, unless they are saved so already or
  // complete; does nothing while no train() runs with this object, and on ranks other than world
  // rank 0.  Waits while a step completes or a save is under way.  Throws what the observers'
  // save() throws.  For any thread.
  void save();

  // For train(), which sets how to save, and holds the lock while it changes a record or saves one.
  void begin(std::function<void()> save);
  void end();
  std::unique_lock<std::mutex> lock() { return std::unique_lock(mutex_); }

 private:
  std::mutex mutex_;
  std::function<void()> save_;
};

// Trains the members' vectors together, to the end of the plan or to a stop.  A vector [S D] has a
// part for each of S `layers`, the same for all members, and all parts act at once; the pass and
// its backward go from the lowest layer on, whose activations and reference the caches hold.  The
// norm is controlled part by part; clipping, the learned factor and the logged norm are of the
// whole vector.  Each member has its own order of pairs, signs, optimiser and log; their
// micro-batches share passes through the model.  Members may differ in factors, seed, shuffle,
// sign, lr, objective, positions and optimiser; they must have the same numbers of pairs, epochs
// and steps, the same batch sizes and the same step to start from.  A member's result depends on
// the others in the last bits only. `held_out` may be null. Objectives that use the reference need
// a cache with it. A member has diverged when its loss, gradient or vector is not finite, its loss
// is larger than any answers explain, its vector is more than 100 times as long as the residual
// stream, or its gradient was exactly zero in as many steps on end as an epoch has. Returns
// kInterrupted after a stop, otherwise kComplete: every member that has not failed is at the end of
// its plan, or out of patience.  Where the state at the end of an epoch was saved without the
// evaluation that is due there, that is made first. Collective over: world
RunStatus train(const Decoder& decoder, const ActivationCache& cache,
                const ActivationCache* held_out, const SteeredLayers& layers,
                const std::vector<TrainingMember>& members, const Ranks& ranks,
                LastStep& last_step);

// The same, for a training that no other thread saves.
RunStatus train(const Decoder& decoder, const ActivationCache& cache,
                const ActivationCache* held_out, const SteeredLayers& layers,
                const std::vector<TrainingMember>& members, const Ranks& ranks);

}  // namespace bipo
