// Everything that the program computes with a model, as named lists of numbers, on any device and
// over any ranks.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <iosfwd>
#include <map>
#include <string>
#include <vector>

#include "collectives/session.hpp"
#include "tests/support/model_variations.hpp"

namespace bipo::testing {

// A parameter of tests.
struct ModelCase {
  const char* name;
  ModelConfig (*config)();
  at::ScalarType type;
};
void PrintTo(const ModelCase& value, std::ostream* out);
std::string name_of_case(const ::testing::TestParamInfo<ModelCase>& info);

// Every model of tests/support/model_variations.hpp, in float64 and in float32.
std::vector<ModelCase> all_model_cases();

// Heads that flash attention takes: of Llama's kind; and with windows in every other block, biases,
// and norms of queries and keys.
ModelConfig flash_config();
ModelConfig flash_window_config();

struct Scenario {
  ModelConfig config;
  at::ScalarType type = at::kFloat;
  at::Device device = at::kCPU;
  bool keeps_activations = true;
};

using Values = std::map<std::string, std::vector<double>>;

// Loading, prefix pass and cache, training of one vector and of a pack with held-out evaluation,
// resuming, evaluation, generation, scores, divergences, mean differences.  The same on every rank,
// but for "activations".
Values run_everything(const Scenario& scenario, const WeightSource& weights, const Ranks& ranks);

// Training of a pack that has all objectives, both reductions, factors and a learned one, of SimPO
// alone, which reads no reference, and of RePS alone.  The same on every rank.
Values train_objectives(const Scenario& scenario, const WeightSource& weights, const Ranks& ranks);

// Returns the gradient of the first step's loss for a start vector drawn from `seed`, [D].
std::vector<double> first_gradient(const Scenario& scenario, const WeightSource& weights,
                                   std::uint64_t seed);

// Expects every list of numbers to be the same within `tolerance` times its largest number.
void expect_near(const Values& found, const Values& expected, double tolerance);

// Root mean squares, over some draws of weights and vectors, of the distance of a bfloat16 model's
// gradient from the CPU's in float64, in roundoffs of bfloat16.
struct GradientErrors {
  double cpu = 0;
  double device = 0;
};
GradientErrors gradient_errors(const ModelConfig& config, at::Device device);

// The same of a bfloat16 model's losses in a training, its evaluation and log-probabilities, by
// name; those of the texts that it writes are held against what float64 gives the same texts.
std::map<std::string, GradientErrors> value_errors(const ModelConfig& config, at::Device device);

}  // namespace bipo::testing
