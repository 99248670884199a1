// Names of a sweep's cells for people: what tells them apart.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "experiments/sweeps/sweep_plan.hpp"

namespace bipo {

// The parts of a cell's name that differ within the sweep, for example layer15-seed1; of a sweep of
// one cell its layer.  They are for the terminal: files have whole names, which do not depend on
// the other cells.
class ShortNames {
 public:
  explicit ShortNames(const std::vector<Cell>& cells);

  // Returns the whole name of a cell that is no part of the sweep.
  std::string of(const Cell& cell) const;

  // Returns the names of cells that train together, "A, B" or "A to Z (12 cells)".
  std::string of(const std::vector<Cell>& members) const;

 private:
  std::map<std::string, std::string> by_name_;
};

}  // namespace bipo
