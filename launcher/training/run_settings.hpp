// The effective settings of a training run: shown at the start, stored in the run file, compared on
// resume.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "collectives/topology.hpp"
#include "launcher/job/machine.hpp"
#include "launcher/options/options.hpp"
#include "launcher/terminal/progress.hpp"
#include "launcher/training/training_inputs.hpp"

namespace bipo {

// Options with every `auto` resolved.
struct RunSettings {
  TrainOptions options;  // as given
  std::int64_t micro_batch = 1;
  std::string dtype;      // "fp32", "bf16"
  bool emulated = false;  // bf16 products are computed in fp32
  std::string device;     // "cpu", "cuda"
  std::string backend;    // of the collectives: "self", "mpi", "nccl"
  ThreadChoice threads;
  std::string cache_dtype;         // "fp32", "bf16"
  std::uint64_t cache_budget = 0;  // bytes per node
};

// A JSON object, in the order of the help: what `config` in the run file holds.
std::string settings_to_json(const RunSettings& settings, const TrainingInputs& inputs,
                             const Topology& topology);

std::vector<SettingGroup> settings_table(const RunSettings& settings, const TrainingInputs& inputs,
                                         const Topology& topology);

// The value of an integer setting in a stored configuration.
std::int64_t stored_integer(const std::string& config, const std::string& name);

// The settings in `config` that shape the result, as text: equal texts, equal results.
std::string result_settings(const std::string& config);

// Throws UserError, listing each difference, unless every setting that shapes the result is the
// same in both configurations.
void check_same_settings(const std::string& stored, const std::string& now,
                         const std::string& file);

// Differences that may change last bits only, as warnings.
std::vector<std::string> harmless_differences(const std::string& stored, const std::string& now);

}  // namespace bipo
