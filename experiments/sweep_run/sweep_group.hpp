// Trains packs of a sweep on one group of ranks, one after the other, until none is left.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "collectives/session.hpp"
#include "experiments/progress/progress.hpp"
#include "experiments/sweep_run/pack_assignment.hpp"
#include "experiments/sweep_run/sweep_preparation.hpp"
#include "experiments/sweep_run/sweep_progress.hpp"
#include "experiments/sweeps/short_names.hpp"
#include "experiments/sweeps/sweep_queue.hpp"
#include "experiments/training/prepared_model.hpp"

namespace bipo {

// A model with a data set, and the layers whose activations are cached now.
struct SweepPart {
  std::size_t inputs = 0;            // place among the sweep's inputs
  std::vector<std::int64_t> layers;  // ascending
  PreparedData data;
};

// Holds the only model that a rank has loaded; the next one replaces it.
class LoadedModel {
 public:
  // Both must outlive it.  The tensor-parallel group of `ranks` shares the model.
  LoadedModel(const SweepPreparation& sweep, const Ranks& ranks) : sweep_(sweep), ranks_(ranks) {}

  // Returns the model of these inputs with at least head and final norm loaded.  Local.
  Decoder& of(std::size_t inputs);

 private:
  const SweepPreparation& sweep_;
  const Ranks& ranks_;
  std::string name_;
  std::unique_ptr<Decoder> decoder_;
};

// Displays of a sweep's progress; both show nothing on ranks other than the root.
struct SweepDisplay {
  ProgressDisplay& steps;
  SweepProgress& cells;

  // Warns on any rank: past the display where this one has none.
  void warn(const std::string& text) const;
};

class SweepGroup {
 public:
  // All arguments must outlive the group.  `queue` belongs to the group's first rank and is null on
  // the others.
  SweepGroup(const SweepPreparation& sweep, const Ranks& ranks, Session& session,
             LoadedModel& model, SweepQueue* queue, SweepDisplay display);

  // Trains those packs of the parts that no other group takes.  Records a cell that fails and
  // continues with the others; leaves cells that the machine fails, for example its disk, to the
  // sweep's next start.  Returns kInterrupted after a request to stop.  Collective over: the
  // group
  RunStatus work(const std::vector<SweepPart>& parts);

  // Returns whether the machine failed cells, on the group's first rank.
  bool has_unsaved() const { return has_unsaved_; }

 private:
  struct Member;
  struct Training;
  enum class End { kDone, kStopped, kSuperseded, kUnsaved };

  bool is_first() const { return ranks_.world->rank() == 0; }
  std::optional<TakenPack> take(const std::vector<SweepPart>& parts);
  End work_on(const std::vector<SweepPart>& parts, const Pack& pack,
              const PackAssignment& assignment, TakenPack* taken);
  End train_pack(const SweepPart& part, const Pack& pack, const PackAssignment& assignment,
                 TakenPack* taken);
  void add_member(Training& training, const SweepPart& part, const Cell& cell,
                  const Checkpoint* state, const RunRecord* previous);
  void log_steps(Member& member, const std::filesystem::path& path) const;
  void load_suffix(const SweepPart& part, std::int64_t first);
  void announce(const Pack& pack, const TakenPack& taken) const;
  void fail(const Cell& cell, const std::string& reason, const TakenPack& taken);
  void end_pack(const PackTask& task, TakenPack& taken, End end);
  bool fail_one(const PackTask& task, std::size_t member, TakenPack& taken);
  void require_space(const Pack& pack, const PackAssignment& assignment) const;

  const SweepPreparation& sweep_;
  const Ranks& ranks_;
  Session& session_;
  LoadedModel& model_;
  SweepQueue* queue_;
  SweepDisplay display_;
  ShortNames names_;
  bool has_unsaved_ = false;
};

}  // namespace bipo
