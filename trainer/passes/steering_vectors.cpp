#include "trainer/passes/steering_vectors.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <map>

#include "collectives/foundation/errors.hpp"

namespace bipo {

SteeringVectors::SteeringVectors(const std::vector<PlacedVector>& vectors, const Decoder& decoder)
    : count_(static_cast<std::int64_t>(vectors.size())) {
  const auto options = at::TensorOptions().dtype(decoder.residual_type()).device(decoder.device());
  const ModelConfig& config = decoder.config();
  std::map<std::int64_t, std::vector<std::int64_t>> at_layer;
  for (std::int64_t i = 0; i < count_; ++i) {
    const PlacedVector& vector = vectors[static_cast<std::size_t>(i)];
    if (static_cast<std::int64_t>(vector.value.size()) != config.hidden) {
      throw BugError(fmt::format("vector {} has {} numbers, but the model's hidden size is {}",
                                 i + 1, vector.value.size(), config.hidden));
    }
    if (vector.layer < 0 || vector.layer >= config.blocks) {
      throw BugError(fmt::format("vector {} belongs to block {}, but the model's are 0 to {}",
                                 i + 1, vector.layer, config.blocks - 1));
    }
    at_layer[vector.layer].push_back(i);
  }
  for (const auto& [layer, which] : at_layer) {
    std::vector<at::Tensor> rows;
    for (const std::int64_t i : which) {
      rows.push_back(at::tensor(vectors[static_cast<std::size_t>(i)].value, at::kFloat));
    }
    sites_.push_back(
        {layer, at::tensor(which, at::kLong).to(decoder.device()), at::stack(rows).to(options)});
  }
}

std::vector<std::int64_t> SteeringVectors::layers() const {
  std::vector<std::int64_t> layers;
  for (const Site& site : sites_) {
    layers.push_back(site.layer);
  }
  return layers;
}

// Vector by vector, not as a product: there a row's result could depend on the other rows, and what
// is added to a row that is not steered must be exactly nothing.
at::Tensor SteeringVectors::add(const at::Tensor& h, std::int64_t layer,
                                const at::Tensor& coefficients) const {
  at::Tensor steered = h;
  for (const Site& site : sites_) {
    if (site.layer != layer) {
      continue;
    }
    const at::Tensor weights = coefficients.index_select(0, site.which);
    for (std::int64_t i = 0; i < weights.size(0); ++i) {
      steered = steered + weights[i].unsqueeze(1) * site.vectors[i];
    }
  }
  return steered;
}

}  // namespace bipo
