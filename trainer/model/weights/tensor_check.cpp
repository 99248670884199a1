#include "trainer/model/weights/tensor_check.hpp"

#include <ATen/ops/isfinite.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

constexpr std::int64_t kElementsPerPiece = 1 << 22;

using Shapes = std::map<std::string, std::vector<std::int64_t>>;

Shapes expected_shapes(const TensorCheck& check, const ModelConfig& config) {
  Shapes shapes;
  for (const auto& [role, block] : weights_of(config)) {
    const TensorPlace place = check.place(role, block);
    shapes.emplace(place.name, place.shape.is_vector()
                                   ? std::vector{place.shape.rows}
                                   : std::vector{place.shape.rows, place.shape.columns});
  }
  return shapes;
}

std::int64_t count_non_finite(const at::Tensor& values) {
  return values.numel() - at::isfinite(values).sum().item<std::int64_t>();
}

}  // namespace

std::string tensors_are(std::size_t count) {
  return count == 1 ? "1 tensor is" : fmt::format("{} tensors are", count);
}

std::vector<std::string> check_tensors(const TensorCheck& check, const ModelConfig& config,
                                       const StoredTensors& stored) {
  const Shapes expected = expected_shapes(check, config);
  std::vector<std::string> missing;
  std::vector<std::string> unfit;
  for (const auto& [name, shape] : expected) {
    const auto found = stored.find(name);
    if (found == stored.end()) {
      missing.push_back(name);
      continue;
    }
    const StoredTensor& tensor = found->second;
    if (tensor.shape != shape) {
      unfit.push_back(fmt::format("{} in {} has shape [{}], but {} implies [{}]", name, tensor.file,
                                  fmt::join(tensor.shape, ", "), check.authority,
                                  fmt::join(shape, ", ")));
    } else if (!tensor.flaw.empty()) {
      unfit.push_back(fmt::format("{} in {} {}", name, tensor.file, tensor.flaw));
    }
  }
  std::vector<std::string> problems;
  if (!missing.empty()) {
    problems.push_back(fmt::format("{} missing, but {} requires {}: {}",
                                   tensors_are(missing.size()), check.authority,
                                   missing.size() == 1 ? "it" : "them", fmt::join(missing, ", ")));
  }
  if (!unfit.empty()) {
    problems.push_back(fmt::format("{} not what the model needs: {}", tensors_are(unfit.size()),
                                   fmt::join(unfit, "; ")));
  }
  if (!problems.empty()) {
    throw UserError(fmt::format(
        "{}: {}.  Weights and configuration do not belong together, or files are incomplete: get "
        "the model again{}",
        check.model, fmt::join(problems, "; and "),
        check.remark.empty() ? "" : ".  " + check.remark));
  }
  std::vector<std::string> extra;
  for (const auto& [name, tensor] : stored) {
    if (!expected.contains(name)) {
      extra.push_back(name);
    }
  }
  return extra;
}

std::vector<std::int64_t> count_non_finite(const WeightSource& weights, const ModelConfig& config,
                                           std::int64_t parts, std::int64_t part) {
  std::vector<std::int64_t> counts;
  for (const auto& [role, block] : weights_of(config)) {
    const TensorShape shape = full_shape(config, role, block);
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
      "--check-weights: {} partly NaN or infinite: {}; the files are damaged, get them again",
      tensors_are(by_place.size()), fmt::join(described, "; ")));
}

}  // namespace bipo
