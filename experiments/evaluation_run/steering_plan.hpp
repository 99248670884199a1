// Plans the settings of vectors that an evaluation scores: the vectors at every multiplier,
// controls of the same norm, and the grid of two vectors.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "experiments/job/vectors_in_use.hpp"
#include "experiments/runs/run_file.hpp"
#include "experiments/settings/settings.hpp"
#include "trainer/passes/steering.hpp"

namespace bipo {

// D hidden, M vectors, S settings.

struct Direction {
  std::string name;  // "vector", "caa", "random", "random-2" and so on
  // Norm of what multiplier 1 adds, over all layers; of conceptors the Frobenius norm of beta C - I
  // over all of them, which is the typical norm of what they change in a row of independent numbers
  // of variance 1.
  double norm = 0;
  std::vector<std::size_t> settings;  // one for each multiplier
  bool is_further_draw = false;       // a random direction that is measured on held-out pairs only
};

struct GridPoint {
  double multiplier_1 = 0;
  double multiplier_2 = 0;
  std::size_t setting = 0;
};

struct SteeringPlan {
  std::vector<PlacedVector> vectors;              // [M]: the user's, then the controls
  std::vector<std::vector<double>> coefficients;  // [S][M], no two alike; the first are all 0
  // The first ones; the others belong to further draws and the grid only.
  std::size_t direction_settings = 0;
  std::vector<Direction> directions;
  std::vector<GridPoint> grid;
};

// Returns the direction that a seed and the number of the draw, from 0, determine, [D], of
// Euclidean norm `norm`: counter-based normal numbers.
std::vector<float> random_direction(std::size_t hidden, double norm, std::int64_t layer,
                                    std::uint64_t seed, std::uint32_t draw = 0);

// Returns a conceptor [D, D] of the same eigenvalues in other directions: the hidden dimensions of
// `conceptor` change places, and half of them their sign, as seed, layer and number of the draw
// determine.  Conceptors of one layer are moved alike.
std::vector<float> moved_conceptor(const std::vector<float>& conceptor, std::size_t hidden,
                                   std::int64_t layer, std::uint64_t seed, std::uint32_t draw = 0);

// Plans `vectors` at options.multipliers, with the controls that the options request: `caa` scaled
// to the norm of the vectors' sum, times options.caa.weight, and random directions in each steered
// layer with the norm of what is added there; for conceptors moved ones.  Throws UserError if the
// vectors add nothing, if `caa` has another layer or hidden size, if there is a `caa` beside
// vectors of several layers or conceptors, and for conceptors beside vectors.
SteeringPlan plan_steering(const std::vector<VectorInUse>& vectors,
                           const std::optional<StoredVector>& caa, const EvaluateOptions& options);

}  // namespace bipo
