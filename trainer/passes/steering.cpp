#include "trainer/passes/steering.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/custom_function.h>

#include <limits>
#include <map>
#include <numeric>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/operators/operators.hpp"

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
    return {context->needs_input_grad(0) ? gradients[0] : at::Tensor(), at::Tensor(),
            at::mm(coefficients, gradients[0])};
  }
};

// Returns 1/(v.v) of each vector, [M, 1]; 0 for a vector of zeros, and for one so short that v.v is
// below the normal numbers, where the reciprocal would be infinite.
at::Tensor inverse_squares(const at::Tensor& vectors) {
  const at::Tensor squares = (vectors * vectors).sum(1, /*keepdim=*/true);
  const double smallest = vectors.scalar_type() == at::kDouble ? std::numeric_limits<double>::min()
                                                               : std::numeric_limits<float>::min();
  return at::where(squares >= smallest, squares.reciprocal(), at::zeros_like(squares));
}

// With S the shares, n = 1/(v.v), A = n V h^T and G the gradient by the result, all rows at once:
//   y = h - (S A)^T V,   B = n V G^T
//   dL/dh = G - (S B)^T V
//   dL/dV = 2 (sum over rows of S A B) V - (S A) G - (S B) h
// where the first term comes from n: dn/dv = -2 n^2 v.
struct ProjectOut : torch::autograd::Function<ProjectOut> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& h, const at::Tensor& shares,
                            const at::Tensor& vectors) {
    context->save_for_backward({h, shares, vectors});
    const at::Tensor parts = shares * inverse_squares(vectors) * at::mm(vectors, h.t());
    return at::addmm(h, parts.t(), vectors, /*beta=*/1, /*alpha=*/-1);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& h = saved[0];
    const at::Tensor& shares = saved[1];
    const at::Tensor& vectors = saved[2];
    const at::Tensor& gradient = gradients[0];
    const at::Tensor along = at::mm(vectors, gradient.t());  // [M, T], v.G
    const at::Tensor inverse = inverse_squares(vectors);
    const at::Tensor of_gradient = shares * inverse * along;
    at::Tensor by_h;
    if (context->needs_input_grad(0)) {
      by_h = at::addmm(gradient, of_gradient.t(), vectors, /*beta=*/1, /*alpha=*/-1);
    }
    const at::Tensor components = inverse * at::mm(vectors, h.t());  // A
    const at::Tensor of_inverse = (2 * of_gradient * components).sum(1, /*keepdim=*/true);
    const at::Tensor by_vectors =
        of_inverse * vectors - at::mm(shares * components, gradient) - at::mm(of_gradient, h);
    return {by_h, at::Tensor(), by_vectors};
  }
};

// Returns v.h of every row, each computed by itself: what a row loses must not depend on how many
// rows are computed beside it.  float64, [T].
at::Tensor row_products(const at::Tensor& h, const at::Tensor& vector) {
  if (!h.is_cpu()) {
    return (h * vector).sum(1);
  }
  const at::Tensor rows = h.contiguous();
  const at::Tensor products = at::empty({h.size(0)}, h.options());
  const auto* row = rows.const_data_ptr<double>();
  const auto* v = vector.const_data_ptr<double>();
  auto* product = products.mutable_data_ptr<double>();
  for (std::int64_t t = 0; t < h.size(0); ++t, row += h.size(1)) {
    product[t] = std::inner_product(row, row + h.size(1), v, 0.0);
  }
  return products;
}

bool is_conceptor(const Intervention& intervention) {
  return intervention.kind == Intervention::Kind::kConceptor;
}

// Returns h + c (beta C h - h) with the coefficients c [T].  The rows of C are its columns, so that
// the product is one with a frozen weight, which keeps rows apart as the model's own products do.
at::Tensor apply_conceptor(const at::Tensor& h, const at::Tensor& coefficients,
                           const at::Tensor& conceptor, double beta) {
  const at::Tensor c = coefficients.unsqueeze(1);
  const at::Tensor passed = frozen_linear(h.contiguous(), {conceptor, /*rounds_inputs=*/false});
  return at::where(c == 0, h, h + c * (beta * passed - h));
}

// Returns h steered by one vector [D], or a conceptor [D, D], with the coefficients [T]; in float64
// where a product of rows with a vector is taken.
at::Tensor intervene(const at::Tensor& h, const at::Tensor& coefficients, const at::Tensor& vector,
                     const Intervention& intervention) {
  if (intervention.kind == Intervention::Kind::kAdd) {
    return h + coefficients.unsqueeze(1) * vector;
  }
  if (is_conceptor(intervention)) {
    return apply_conceptor(h, coefficients, vector, intervention.level);
  }
  const at::Tensor v = vector.to(at::kDouble);
  // A vector of zeros stays one, and changes nothing.
  const at::Tensor direction = v / v.norm().clamp_min(std::numeric_limits<double>::min());
  const at::Tensor exact = h.to(at::kDouble);
  const at::Tensor component = row_products(exact, direction);
  const at::Tensor c = coefficients.to(at::kDouble);
  const at::Tensor change =
      intervention.kind == Intervention::Kind::kNull
          ? -c * component
          : at::where(c == 0, at::zeros_like(c), c * intervention.level - component);
  const at::Tensor steered = (exact + change.unsqueeze(1) * direction).to(h.scalar_type());
  return at::where((c == 0).unsqueeze(1), h, steered);
}

}  // namespace

ResidualStream run_past_sites(ResidualStream stream, const std::vector<SteeredPlace>& places,
                              const AddVectors& add, const RunBlocks& run) {
  for (const SteeredPlace& place : places) {
    const Range before = {stream.next_block, place.blocks_before()};
    if (before.size() > 0) {
      stream.hidden = run(stream.hidden, before, nullptr);
    }
    const auto act = [&](const at::Tensor& site) { return add(site, place); };
    stream.hidden = place.site == Site::kBlock
                        ? act(stream.hidden)
                        : run(stream.hidden, {place.layer, place.layer + 1}, act);
    stream.next_block = place.layer + 1;
  }
  return stream;
}

at::Tensor steer(const at::Tensor& h, const at::Tensor& coefficients, const at::Tensor& vectors) {
  return Steer::apply(h, coefficients, vectors);
}

at::Tensor project_out(const at::Tensor& h, const at::Tensor& shares, const at::Tensor& vectors) {
  return ProjectOut::apply(h, shares, vectors);
}

SteeringVectors::SteeringVectors(const std::vector<PlacedVector>& vectors, const Decoder& decoder)
    : count_(static_cast<std::int64_t>(vectors.size())) {
  const ModelConfig& config = decoder.config();
  std::map<SteeredPlace, std::vector<std::int64_t>> at_place;
  for (std::int64_t i = 0; i < count_; ++i) {
    const PlacedVector& vector = vectors[static_cast<std::size_t>(i)];
    const std::int64_t rows = is_conceptor(vector.intervention) ? config.hidden : 1;
    if (static_cast<std::int64_t>(vector.value.size()) != rows * config.hidden) {
      throw BugError(fmt::format("vector {} has {} numbers, but the model's hidden size is {}",
                                 i + 1, vector.value.size(), config.hidden));
    }
    if (vector.layer < 0 || vector.layer >= config.blocks) {
      throw BugError(fmt::format("vector {} belongs to block {}, but the model's are 0 to {}",
                                 i + 1, vector.layer, config.blocks - 1));
    }
    at_place[{vector.layer, vector.site}].push_back(i);
  }
  for (const auto& [place, which] : at_place) {
    Acts acts{place, at::tensor(which, at::kLong).to(decoder.device()), {}, {}};
    std::vector<at::Tensor> rows;
    for (const std::int64_t i : which) {
      const PlacedVector& vector = vectors[static_cast<std::size_t>(i)];
      if (!is_conceptor(vector.intervention)) {
        rows.push_back(at::tensor(vector.value, at::kFloat));
      }
    }
    // One copy to the device for all vectors.
    const at::Tensor stacked =
        rows.empty() ? at::Tensor() : at::stack(rows).to(residual_options(decoder));
    std::int64_t row = 0;
    for (const std::int64_t i : which) {
      const PlacedVector& vector = vectors[static_cast<std::size_t>(i)];
      acts.values.push_back(is_conceptor(vector.intervention)
                                ? at::tensor(vector.value, at::kFloat)
                                      .view({config.hidden, config.hidden})
                                      .to(residual_options(decoder))
                                : stacked[row++]);
      acts.interventions.push_back(vector.intervention);
    }
    acts_.push_back(std::move(acts));
  }
}

std::vector<SteeredPlace> SteeringVectors::places() const {
  std::vector<SteeredPlace> places;
  for (const Acts& acts : acts_) {
    places.push_back(acts.place);
  }
  return places;
}

// Not a product like steer()'s: in a product a row's result could depend on the other rows, and a
// row that is not steered must keep its bits.
at::Tensor SteeringVectors::steer(const at::Tensor& h, const SteeredPlace& place,
                                  const at::Tensor& coefficients) const {
  at::Tensor steered = h;
  for (const Acts& acts : acts_) {
    if (acts.place != place) {
      continue;
    }
    const at::Tensor weights = coefficients.index_select(0, acts.which);
    for (std::int64_t i = 0; i < weights.size(0); ++i) {
      const auto act = static_cast<std::size_t>(i);
      steered = intervene(steered, weights[i], acts.values[act], acts.interventions[act]);
    }
  }
  return steered;
}

}  // namespace bipo
