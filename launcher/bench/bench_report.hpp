// Writes the results of `bench` as text and as JSON, and reads that JSON.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/cost/cost.hpp"
#include "trainer/intervention/layers.hpp"

namespace bipo {

struct BenchReport {
  // The workload.
  std::string model;
  std::int64_t blocks = 0;
  SteeredLayers layer = 0;  // or several, trained jointly
  std::string dtype;
  std::string device;
  std::string backend;
  int world = 1;
  int dp = 1;
  int tp = 1;
  std::int64_t threads = 1;
  std::int64_t batch_size = 0;
  std::int64_t micro_batch = 0;
  std::int64_t pairs = 0;
  std::string objective = "bipo";
  std::int64_t warmup = 0;
  double tokens_per_step = 0;   // each pair's own, without shared ones
  double answers_per_step = 0;  // answer tokens

  // The measurements.
  std::vector<double> step_seconds;  // the counted steps
  double prefix_seconds = 0;
  StepSeconds breakdown;                // the median step
  double floor_flops_per_step = 0;      // whole step, all ranks
  double peak_flops = 0;                // per second, all ranks together
  double copy_bytes_per_second = 0;     // all ranks together
  std::uint64_t free_memory_bytes = 0;  // for a rank, before the run
  std::uint64_t peak_memory_bytes = 0;  // on the rank that used the most
  std::uint64_t weight_bytes = 0;       // on that rank, while it trains
  std::uint64_t cache_bytes = 0;        // per node
  bool cache_kept = true;

  // For `plan --measured`, and its prediction for this very run.
  MachineSpeed speed;
  double planned_step_seconds = 0;
  double planned_prefix_seconds = 0;
  double planned_memory_bytes = 0;

  double median_step_seconds() const;
};

std::string bench_text(const BenchReport& report);
std::string bench_json(const BenchReport& report);

// The part of a benchmark that `plan` uses.
struct MeasuredMachine {
  MachineSpeed speed;
  double memory_bytes = 0;  // free for a rank
  std::string device;       // "cpu", "cuda"
  std::string dtype;
};

// Parses the text that bench_json() returned.  Throws UserError, naming `path`, for any other text.
MeasuredMachine measured_machine(const std::string& json, const std::string& path);

}  // namespace bipo
