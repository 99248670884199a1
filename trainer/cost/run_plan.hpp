// The plan of a run: the fastest arrangement of ranks that fits, with its memory and time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "trainer/cost/cost.hpp"
#include "trainer/intervention/layers.hpp"
#include "trainer/model/architecture/config.hpp"

namespace bipo {

// The machine as the plan sees it: `devices` equal ones.
struct PlannedMachine {
  std::string name;
  std::string source;  // of the figures
  bool cuda = false;
  std::int64_t devices = 1;
  std::int64_t devices_per_node = 0;  // 0: all are on one node
  double memory_bytes = 0;            // of a device, or free for a rank on CPUs
  MachineSpeed speed;                 // of a rank
};

// Where micro-batches are recorded as graphs, if a device has them and their memory has room.
enum class GraphUse { kNone, kWhereTheyPay, kWherePossible };

struct PlanRequest {
  std::string model;
  ModelConfig config;
  SteeredLayers layer = 0;  // whose lowest bounds the work
  TokenCounts pair;         // the mean one
  std::int64_t train_pairs = 0;
  std::int64_t test_pairs = 0;
  bool uses_reference = true;  // the objective, of the training pairs; held-out ones have theirs
  std::int64_t batch_size = 4;
  std::optional<std::int64_t> micro_batch;
  std::optional<std::int64_t> tp;
  std::int64_t epochs = 3;
  std::int64_t max_steps = 0;  // 0: no limit
  std::int64_t passes = 1;     // over each batch: 2 where a step adds the vector in both directions
  std::int64_t multipliers = 0;  // that need an evaluation: 0 is known from the reference pass
  std::int64_t eval_every = 1;   // epochs; 0: never
  std::int64_t cells = 1;
  std::string dtype;   // "bf16" or "fp32"
  bool flash = false;  // see RunShape
  GraphUse graphs = GraphUse::kWhereTheyPay;
  std::string attention;  // how attention runs and why, for people; empty on CPUs
  ElementBytes bytes;
  bool packs_prefix = false;  // see RunShape
  PlannedMachine machine;
  bool has_started = false;  // the ranks are a job's own, whose number no option changes
};

struct RunPlan {
  RunShape shape;  // tp, dp and micro-batch as chosen
  RankMemory memory;
  double peak_bytes = 0;  // on a device; on CPUs with the cache
  bool fits = false;
  bool lacks_room_for_graphs = false;  // the request wants them, and the plan is without
  double prefix_seconds = 0;
  StepSeconds step;
  std::int64_t steps = 0;
  double training_seconds = 0;    // all steps
  double evaluation_seconds = 0;  // all evaluations
  double run_seconds = 0;         // with the prefix pass
  double sweep_seconds = 0;       // all cells, one after the other, on one prefix pass
};

// The fastest step among the tp that divide a node's devices and halvings of the micro-batch,
// within the request; where none fits, the one that needs the least memory.  Throws UserError where
// tp exceeds the model's query heads.
RunPlan make_plan(const PlanRequest& request);

}  // namespace bipo
