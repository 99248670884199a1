// Short names of cells: what tells the cells of one sweep apart.
#include "experiments/sweeps/short_names.hpp"

#include <gtest/gtest.h>

namespace bipo {
namespace {

Cell cell_of(const std::string& model, std::int64_t layer, std::uint64_t seed, double lr = 5e-4) {
  Cell cell{model, "data", layer, seed, lr, 0.1, "batch", 4, 20, ""};
  cell.name =
      model + "-" + std::to_string(layer) + "-" + std::to_string(seed) + "-" + std::to_string(lr);
  return cell;
}

TEST(ShortNames, LeaveAxesOfOneValueOut) {
  const std::vector<Cell> cells = {cell_of("m", 5, 1), cell_of("m", 5, 2), cell_of("m", 10, 1)};
  const ShortNames names(cells);
  EXPECT_EQ(names.of(cells[0]), "layer5-seed1");
  EXPECT_EQ(names.of(cells[2]), "layer10-seed1");
}

TEST(ShortNames, HaveEveryAxisThatDiffers) {
  const std::vector<Cell> cells = {cell_of("m", 5, 1, 1e-3), cell_of("other", 5, 1, 0.5)};
  const ShortNames names(cells);
  EXPECT_EQ(names.of(cells[0]), "m-lr0.001");
  EXPECT_EQ(names.of(cells[1]), "other-lr0.5");
}

TEST(ShortNames, OfALoneCellIsItsLayer) {
  const std::vector<Cell> cells = {cell_of("m", 5, 1)};
  EXPECT_EQ(ShortNames(cells).of(cells[0]), "layer5");
}

TEST(ShortNames, AreWholeWhereThePlanDoesNotTellCellsApart) {
  std::vector<Cell> cells = {cell_of("m", 5, 1), cell_of("m", 5, 2), cell_of("m", 6, 1)};
  cells[1].seed = 1;  // a plan that lacks the values of an axis
  EXPECT_EQ(ShortNames(cells).of(cells[1]), cells[1].name);
  EXPECT_EQ(ShortNames(cells).of(cell_of("strange", 1, 1)), cell_of("strange", 1, 1).name);
}

TEST(ShortNames, OfAPackAreAListOrItsEnds) {
  std::vector<Cell> cells;
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    cells.push_back(cell_of("m", 5, seed));
  }
  const ShortNames names(cells);
  EXPECT_EQ(names.of(std::vector<Cell>{cells[0], cells[1]}), "seed1, seed2");
  EXPECT_EQ(names.of(cells), "seed1 to seed12 (12 cells)");
}

}  // namespace
}  // namespace bipo
