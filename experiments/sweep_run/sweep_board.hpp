// Lays out the cells of a sweep under way as lines of a board.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "experiments/progress/progress.hpp"
#include "experiments/sweeps/sweep_directory.hpp"
#include "experiments/sweeps/sweep_plan.hpp"

namespace bipo {

// Returns green for complete, red for failed, else none.
Colour colour_of(CellStatus status);

// What a group of ranks has done so far of the pack that it works on, and before.
struct SweepPace {
  double cost_per_second = 0;  // of one group; 0: not known yet
  double pack_cost = 0;        // of this group's pack; 0: none is training
  double pack_share = 0;       // done of it
};

// Seconds that are left; negative: not known, or nothing is left.
struct SweepEstimate {
  double whole = -1;
  std::vector<double> cells;  // in the order of the plan's cells
};

// Assumes that all working groups are as fast, and as far with their packs, as this one, and that
// packs are taken in their order.
SweepEstimate estimate(const SweepPlan& plan, const std::vector<CellStatus>& status,
                       const CellCost& cost, const SweepPace& pace);

// Returns the places of at most `rows` cells, in their order where all fit; else what runs first,
// then what failed or is unfinished.
std::vector<std::size_t> most_urgent(const std::vector<CellStatus>& status, std::size_t rows);

struct BoardCell {
  std::string name;
  CellStatus status = CellStatus::kMissing;
  double seconds_left = -1;
};

// Returns at most `rows` lines: the heading, then cells as most_urgent() has them, and the number
// of the others.
std::vector<BoardLine> sweep_board(const std::string& heading, const std::vector<BoardCell>& cells,
                                   std::size_t rows);

}  // namespace bipo
