// Products in tiles against float64, and that a row's bits do not depend on its neighbours.
#include "trainer/model/operators/cpu_products.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "trainer/model/operators/operators.hpp"
#include "trainer/model/operators/task_queue.hpp"

namespace bipo {
namespace {

struct Shape {
  std::int64_t rows;
  std::int64_t in;
  std::int64_t out;
};

// Whole tiles and remainders of rows, columns and sums; sums longer than one part of a tile.
const std::vector<Shape> kShapes = {{1, 64, 64},    {3, 2, 1},     {40, 576, 960},
                                    {64, 128, 64},  {65, 130, 63}, {100, 1536, 576},
                                    {257, 34, 129}, {379, 770, 70}};

class Tiles : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override {
    if (!multiplies_tiles(GetParam())) {
      GTEST_SKIP() << "this processor multiplies no such tiles";
    }
    at::manual_seed(11);
  }

  at::Tensor weight(std::int64_t out, std::int64_t in) const {
    return at::randn({out, in}).to(GetParam());
  }
  // What the product sees of a float32 operand.
  at::Tensor seen(const at::Tensor& x) const { return x.to(GetParam()).to(at::kDouble); }

  // float32 sums of k terms of size about 1.
  static void expect_close(const at::Tensor& single, const at::Tensor& exact, std::int64_t k) {
    const double bound = 4 * static_cast<double>(k) * std::numeric_limits<float>::epsilon() + 1e-6;
    EXPECT_LT((single.to(at::kDouble) - exact).abs().max().item<double>(), bound);
  }
};

TEST_P(Tiles, ForwardIsTheProductAndTheResidual) {
  for (const auto& [rows, in, out] : kShapes) {
    const at::Tensor x = at::randn({rows, in});
    const at::Tensor w = weight(out, in);
    const at::Tensor residual = at::randn({rows, out});
    ASSERT_TRUE(is_tiled_weight(w));
    const at::Tensor exact = seen(x).mm(w.to(at::kDouble).t());
    expect_close(tiled_linear(x, w, at::Tensor()), exact, in);
    expect_close(tiled_linear(x, w, residual), exact + residual.to(at::kDouble), in);
  }
}

TEST_P(Tiles, BackwardOverwritesOrAdds) {
  for (const auto& [rows, in, out] : kShapes) {
    const at::Tensor g = at::randn({rows, out});
    const at::Tensor w = weight(out, in);
    const at::Tensor exact = seen(g).mm(w.to(at::kDouble));
    const at::Tensor sum = at::full({rows, in}, std::nanf(""));
    add_tiled_product(g, w, sum, /*overwrite=*/true);
    expect_close(sum, exact, out);
    add_tiled_product(g, w, sum, /*overwrite=*/false);
    expect_close(sum, 2 * exact, 2 * out);
  }
}

// Rows of a wider matrix, as the parts of a fused projection are.
TEST_P(Tiles, TakeRowsWithGaps) {
  const at::Tensor wide = at::randn({33, 200});
  const at::Tensor x = wide.narrow(1, 20, 96);
  const at::Tensor w = weight(70, 96);
  EXPECT_TRUE(
      at::equal(tiled_linear(x, w, at::Tensor()), tiled_linear(x.contiguous(), w, at::Tensor())));
}

TEST_P(Tiles, ARowDoesNotDependOnItsNeighbours) {
  const at::Tensor w = weight(130, 1602);
  const at::Tensor x = at::randn({300, 1602});
  const at::Tensor g = at::randn({300, 130});
  const at::Tensor forward = tiled_linear(x, w, at::Tensor());
  const at::Tensor backward = at::empty({300, 1602});
  add_tiled_product(g, w, backward, /*overwrite=*/true);
  for (const std::int64_t first : {0, 7, 63, 255, 299}) {
    for (const std::int64_t count : {1, 15, 40}) {
      const std::int64_t rows = std::min<std::int64_t>(count, 300 - first);
      EXPECT_TRUE(at::equal(tiled_linear(x.narrow(0, first, rows), w, at::Tensor()),
                            forward.narrow(0, first, rows)));
      const at::Tensor part = at::empty({rows, 1602});
      add_tiled_product(g.narrow(0, first, rows), w, part, /*overwrite=*/true);
      EXPECT_TRUE(at::equal(part, backward.narrow(0, first, rows)));
    }
  }
}

TEST_P(Tiles, NoRowsAreNoWork) {
  EXPECT_EQ(tiled_linear(at::empty({0, 64}), weight(64, 64), at::Tensor()).size(0), 0);
}

INSTANTIATE_TEST_SUITE_P(Types, Tiles, ::testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& type) { return c10::toString(type.param); });

TEST(TiledWeights, AreThoseThatTilesCanRead) {
  EXPECT_FALSE(is_tiled_weight(at::zeros({64, 64}, at::kDouble)));
  EXPECT_FALSE(is_tiled_weight(at::zeros({64, 63}, at::kBFloat16)));
  EXPECT_FALSE(is_tiled_weight(at::zeros({64, 64}).t().narrow(0, 0, 32)));
}

TEST(TaskQueue, HandsOutEachTaskOnce) {
  std::vector<std::atomic<int>> taken(1000);
  share_tasks(1000, [&](TaskQueue& queue) {
    while (const auto task = queue.next()) {
      ++taken[static_cast<std::size_t>(*task)];
    }
  });
  for (const std::atomic<int>& times : taken) {
    EXPECT_EQ(times, 1);
  }
}

TEST(TaskQueue, RowsAreCoveredInRanges) {
  std::vector<std::atomic<int>> seen(103);
  share_row_ranges(103, 10, [&](std::int64_t begin, std::int64_t end) {
    EXPECT_LE(end - begin, 10);
    for (std::int64_t row = begin; row < end; ++row) {
      ++seen[static_cast<std::size_t>(row)];
    }
  });
  for (const std::atomic<int>& times : seen) {
    EXPECT_EQ(times, 1);
  }
}

TEST(TaskQueue, ThrowsWhatATaskThrew) {
  EXPECT_THROW(share_tasks(4, [](TaskQueue&) { throw std::runtime_error("a task failed"); }),
               std::runtime_error);
}

}  // namespace
}  // namespace bipo
