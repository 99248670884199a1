#include "trainer/passes/steering.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/custom_function.h>

#include <map>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Steer : torch::autograd::Function<Steer> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& h,
                            const at::Tensor& coefficients, const at::Tensor& vectors) {
    context->save_for_backward({coefficients});
    return at::addmm(h, coefficients.t(), vectors);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::Tensor coefficients = context->get_saved_variables()[0];
    return {at::Tensor(), at::Tensor(), at::mm(coefficients, gradients[0])};
  }
};

}  // namespace

ResidualStream run_past_sites(ResidualStream stream, const std::vector<std::int64_t>& layers,
                              const AddVectors& add, const RunBlocks& run) {
  for (const std::int64_t layer : layers) {
    if (stream.next_block <= layer) {
      stream.hidden = run(stream.hidden, {stream.next_block, layer + 1});
    }
    stream.hidden = add(stream.hidden, layer);
    stream.next_block = layer + 1;
  }
  return stream;
}

at::Tensor steer(const at::Tensor& h, const at::Tensor& coefficients, const at::Tensor& vectors) {
  return Steer::apply(h, coefficients, vectors);
}

SteeringVectors::SteeringVectors(const std::vector<PlacedVector>& vectors, const Decoder& decoder)
    : count_(static_cast<std::int64_t>(vectors.size())) {
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
    sites_.push_back({layer, at::tensor(which, at::kLong).to(decoder.device()),
                      at::stack(rows).to(residual_options(decoder))});
  }
}

std::vector<std::int64_t> SteeringVectors::layers() const {
  std::vector<std::int64_t> layers;
  for (const Site& site : sites_) {
    layers.push_back(site.layer);
  }
  return layers;
}

// Not a product like steer()'s: in a product a row's result could depend on the other rows, and a
// row that is not steered must keep its bits.
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
