#include "trainer/model/weights/finite_weights.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <string>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/sharding/sharding.hpp"
#include "trainer/model/weights/tensor_check.hpp"

namespace bipo {
namespace {

constexpr std::int64_t kElementsPerPiece = 1 << 22;

std::int64_t count_non_finite(const at::Tensor& values) {
  return values.numel() - at::isfinite(values).sum().item<std::int64_t>();
}

}  // namespace

std::vector<std::int64_t> count_non_finite(const WeightSource& weights, const ModelConfig& config,
                                           std::int64_t parts, std::int64_t part) {
  std::vector<std::int64_t> counts;
  for (const auto& [role, block] : weights_of(config)) {
    const TensorShape shape = full_shape(config, role);
    const Range rows = split_range(shape.rows, parts, part);
    const std::int64_t piece =
        std::max<std::int64_t>(1, kElementsPerPiece / std::max<std::int64_t>(1, shape.columns));
    std::int64_t count = 0;
    for (std::int64_t row = rows.begin; row < rows.end; row += piece) {
      const Slice slice = {{row, std::min(row + piece, rows.end)}, {0, shape.columns}};
      count += count_non_finite(weights.read(role, block, slice));
    }
    counts.push_back(count);
  }
  return counts;
}

void require_finite(const WeightSource& weights, const ModelConfig& config,
                    const std::vector<std::int64_t>& counts) {
  // Weights that are rows of one fused tensor count together.
  std::map<std::string, std::int64_t> by_place;
  const std::vector<WeightId> ids = weights_of(config);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (counts[i] > 0) {
      by_place[weights.place(ids[i].role, ids[i].block)] += counts[i];
    }
  }
  if (by_place.empty()) {
    return;
  }
  std::vector<std::string> described;
  for (const auto& [place, count] : by_place) {
    described.push_back(fmt::format("{}: {} of its numbers", place, count));
  }
  throw UserError(fmt::format(
      "--check-weights: {} NaN or infinite in part: {}; the files are damaged, get them again",
      tensors_are(by_place.size()), fmt::join(described, "; ")));
}

}  // namespace bipo
