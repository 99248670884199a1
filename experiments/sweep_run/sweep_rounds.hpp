// Plans which models, data sets and layers of a sweep have their activations cached at the same
// time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "experiments/sweeps/sweep_plan.hpp"

namespace bipo {

// Layers of one model with one data set (an index into the sweep's inputs).
struct RoundPart {
  std::size_t inputs = 0;
  std::vector<std::int64_t> layers;  // ascending

  bool operator==(const RoundPart&) const = default;
};

// The remaining work at one layer.
struct LayerNeed {
  std::size_t inputs = 0;
  std::int64_t layer = 0;
  std::uint64_t bytes = 0;  // cached activations, per node
};

// Plans the next round: as many needs, in their order, as fit `budget` bytes together, and always
// the first.  The parts have the order of their first need.
std::vector<RoundPart> plan_round(const std::vector<LayerNeed>& needs, std::uint64_t budget);

// Returns the layers of the cells that a part of a round is for, as --layers names them: "layer
// 10", "layers 10, 10+15"; of many the first ones.  `cells`: of the part's model and data set.
std::string layers_of_cells(const RoundPart& part, const std::vector<Cell>& cells);

// Convert a round to text and back, for the ranks to agree on.
std::string round_to_text(const std::vector<RoundPart>& parts);
std::vector<RoundPart> round_from_text(const std::string& text);

}  // namespace bipo
