// A training step on an accelerator: the host asks for all of it, prepares what comes next
// meanwhile, and reads once.
#pragma once

#include <ATen/core/Tensor.h>

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "collectives/device.hpp"
#include "collectives/device_graph.hpp"
#include "collectives/session.hpp"
#include "trainer/cache/activation_cache.hpp"
#include "trainer/intervention/layers.hpp"
#include "trainer/intervention/positions.hpp"
#include "trainer/model/decoder/decoder.hpp"
#include "trainer/objective/objective.hpp"
#include "trainer/passes/packing.hpp"

namespace bipo {

// M vectors that are trained together, D hidden.

// One pair under one sign, for one of the vectors.
struct PairPlace {
  std::int64_t member = 0;  // of the M
  std::int64_t pair = 0;
  std::int64_t sign = 0;
  double factor = 1;  // times the sign, on the vector
  Objective objective;
  SteeredPositions positions;
  std::int64_t row = 0;  // of the step's figures
  auto operator<=>(const PairPlace&) const = default;
};

// What goes through the model together.
struct MicroBatch {
  std::int64_t members = 0;  // M
  std::vector<PairPlace> places;
  auto operator<=>(const MicroBatch&) const = default;
};

// Bytes of tables of micro-batches that a device keeps for later epochs, at most; no more than a
// sixteenth of what is free.
inline constexpr std::uint64_t kMostTableBytes = std::uint64_t{256} << 20;

// Shapes of micro-batches whose work is recorded, at most, and shapes that are remembered as having
// come once; others run unrecorded.
inline constexpr std::size_t kMostGraphs = 64;
inline constexpr std::size_t kMostShapes = 4096;

// Returns why micro-batches of a model are not recorded as graphs (device_graph.hpp) on `device`,
// over `tp` ranks, from activations that are kept or not; empty: they are, where choose_graphs()
// says so.
std::string graph_obstacle(const ModelConfig& config, at::Device device, std::int64_t tp,
                           bool keeps_activations);

class DeviceStep {
 public:
  // Takes the activations of the lowest of `layers` onto the device where they belong there.
  // `repeats`: every epoch has the same micro-batches, whose tables are then kept on the device
  // within kMostTableBytes.  All that is referred to must outlive this object.  Local.
  DeviceStep(const Decoder& decoder, const ActivationCache& cache, const SteeredLayers& layers,
             const Ranks& ranks, bool repeats);

  // Begins a step from `vectors` [M, S D] in host memory.
  void begin(const at::Tensor& vectors);

  // Asks for the forward and backward pass of a micro-batch of this replica.  While the device is
  // at it, prepares `next` (null: nothing is known of it), the one that is added after it.
  // Collective over: tp
  void add(const MicroBatch& micro_batch, const MicroBatch* next);

  // What all replicas' micro-batches gave.
  struct Result {
    at::Tensor gradients;  // [M, S D] of the summed losses, float64 on the host
    at::Tensor figures;    // [2, rows]: margins, and minus the losses, likewise
  };

  // Returns why recording graphs has ended, once, as a line; else empty.
  std::string take_failure() { return std::exchange(failure_, {}); }

  // Ends the step: reduces over the replicas what `micro_batches` of all of them gave, and waits.
  // The same on every rank.  `rows`: of all figures.  Collective over: dp x tp
  Result finish(std::int64_t micro_batches, std::int64_t rows);

 private:
  // A micro-batch's tables.
  struct Tables {
    std::shared_ptr<UnsentPairs> pairs;
    at::Tensor sent;             // their bytes on the device
    at::Tensor coefficients;     // [M, T]
    at::Tensor shares;           // [M, T] of what is projected out; undefined: nothing
    at::Tensor rows;             // [T] of the activations on the device, if they are there
    at::Tensor targets_of_item;  // [P], items in the order of their targets
    at::Tensor item_of_target;   // [R], numbered in that order
    // [R] float64: the margin by each log-probability, sign times beta (by the mean, over the
    // answer's tokens), minus that if rejected
    at::Tensor direction_of_target;
    at::Tensor offset;          // [P] float64: the margin of log-probabilities of 0
    at::Tensor forms;           // [6, P] float64, see PairForm; undefined: all are BiPO's
    at::Tensor loss_of_target;  // [R] float64: a loss's slope that depends on nothing
    // [R] float64, undefined where they are 0: what the sigmoid's argument has beside the margin,
    // and the slope by log(1 - pi)
    at::Tensor argument_of_target;
    at::Tensor complement_of_target;
    at::Tensor rows_of_figures;  // [P]
    at::Tensor rows_on_host;     // the same in host memory
    const PackedPairs& packed() const { return pairs->packed; }
    std::uint64_t bytes() const;
    // Takes the tables from a copy of their bytes, and makes what follows from them.
    void take(const at::Tensor& bytes) const;
  };

  struct Prepared {
    MicroBatch micro_batch;
    std::int64_t sign = 1;  // times those of the tables
    std::shared_ptr<const Tables> tables;
    std::optional<Arrival> hidden;  // where the host keeps the activations
  };

  // What one micro-batch gave; gradient and figures are on the device.
  struct Found {
    at::Tensor gradient;   // [M, S D], of the vectors' type or in float64
    at::Tensor margin;     // [P]
    at::Tensor log_score;  // [P]: minus the loss
    at::Tensor rows;       // [P], in host memory where this replica is alone
  };

  // What a micro-batch asks of the device, recorded once for all of its shape.
  struct Recorded {
    at::Tensor tables;   // bytes that it reads
    at::Tensor hidden;   // activations [T, D] that it reads; undefined: from those on the device
    at::Tensor results;  // see work_of()
    std::unique_ptr<DeviceGraph> graph;  // null: the shape was seen, which warms libraries up
  };
  // By the tables' shapes, what else the host decides, and the sign.
  using Shape = std::vector<std::int64_t>;

  Prepared prepare(const MicroBatch& micro_batch);
  std::shared_ptr<const Tables> tables_of(const MicroBatch& micro_batch);
  std::shared_ptr<const Tables> make_tables(const MicroBatch& micro_batch) const;
  Arrival send_activations(const PackedPairs& packed) const;
  at::Tensor hidden_of(const Prepared& prepared) const;
  Found forward_and_backward(const Prepared& prepared, const at::Tensor& hidden) const;
  at::Tensor results_of(const Prepared& prepared, const at::Tensor& hidden) const;
  Found run_rounded(const Prepared& prepared);
  Recorded* recorded_for(const Prepared& prepared);
  bool record(const Prepared& prepared, Recorded& recorded);
  static at::Tensor backward_weights(const Prepared& prepared, const at::Tensor& log_probs,
                                     Found& found);
  static at::Tensor general_weights(const Tables& tables, const at::Tensor& log_probs,
                                    Found& found);
  Result sum_on_host(const at::Tensor& read, std::int64_t micro_batches, std::int64_t rows) const;

  const Decoder& decoder_;
  const ActivationCache& cache_;
  SteeredLayers layers_;
  const Ranks& ranks_;
  bool repeats_;
  at::Tensor rows_on_device_;  // undefined where the host keeps them
  CopyStream copies_;
  std::uint64_t table_bytes_left_;
  std::map<MicroBatch, std::shared_ptr<const Tables>> kept_tables_;
  std::optional<Prepared> next_;

  // Null: nothing is recorded, and micro-batches have the shapes that they have.  Else they are
  // filled up to a few shapes even where nothing is recorded, so that a step's bits depend on its
  // micro-batches only.
  GraphRecorder* recorder_;
  bool records_ = true;  // no recording has failed
  std::string failure_;  // that nobody knows of
  std::map<Shape, Recorded> recorded_;
  std::size_t graphs_ = 0;                            // in it
  std::map<std::int64_t, at::Tensor> fixed_vectors_;  // [M, S D] by M, where graphs find them

  // What the step under way has so far.
  at::Tensor vectors_;        // [M, S D]
  std::vector<Found> found_;  // by this replica's micro-batches
};

}  // namespace bipo
