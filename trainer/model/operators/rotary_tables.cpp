#include "trainer/model/operators/rotary_tables.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

namespace bipo {
namespace {

// Returns theta^(2 i / size) for the first `pairs` pairs i.
at::Tensor wavelength_powers(double theta, std::int64_t pairs, std::int64_t size) {
  return at::pow(theta,
                 at::arange(0, 2 * pairs, 2, at::kLong).to(at::kFloat) / static_cast<double>(size));
}

struct Rescaled {
  const RotaryEmbedding& embedding;
  std::int64_t rotated;
  at::Tensor powers;  // theta^(2 i / R), times the divisors

  at::Tensor operator()(std::monostate) const { return at::reciprocal(powers); }

  at::Tensor operator()(const LinearRopeScaling& scaling) const {
    return at::reciprocal(powers) / scaling.factor;
  }

  // As apply_scaling in Llama 3.1's reference code: divides the frequencies of long wavelengths by
  // `factor`, keeps those of short ones, interpolates between.
  at::Tensor operator()(const Llama3RopeScaling& scaling) const {
    const at::Tensor frequencies = at::reciprocal(powers);
    const at::Tensor wavelengths = 2 * std::numbers::pi / frequencies;
    const double longest_kept = scaling.original_context / scaling.high_frequency_factor;
    const double shortest_scaled = scaling.original_context / scaling.low_frequency_factor;
    const at::Tensor blend =
        (scaling.original_context / wavelengths - scaling.low_frequency_factor) /
        (scaling.high_frequency_factor - scaling.low_frequency_factor);
    const at::Tensor scaled = frequencies / scaling.factor;
    const at::Tensor between = (1 - blend) * scaled + blend * frequencies;
    return at::where(wavelengths < longest_kept, frequencies,
                     at::where(wavelengths > shortest_scaled, scaled, between));
  }

  at::Tensor operator()(const YarnRopeScaling& scaling) const {
    // Returns the pair that makes `rotations` turns over the original context.
    const auto pair_of = [&](double rotations) {
      return static_cast<double>(rotated) *
             std::log(scaling.original_context / (rotations * 2 * std::numbers::pi)) /
             (2 * std::log(embedding.theta));
    };
    double first = pair_of(scaling.fast);
    double last = pair_of(scaling.slow);
    if (scaling.whole_dimensions) {
      first = std::floor(first);
      last = std::ceil(last);
    }
    first = std::max(first, 0.0);
    last = std::min(last, static_cast<double>(rotated - 1));
    if (first == last) {
      last += 0.001;  // transformers' guard against a division by zero
    }
    const at::Tensor ramp =
        ((at::arange(rotated / 2, at::kFloat) - first) / (last - first)).clamp(0, 1);
    const at::Tensor kept = 1 - ramp;
    return at::reciprocal(scaling.factor * powers) * (1 - kept) + at::reciprocal(powers) * kept;
  }
};

std::int64_t rotated_elements(const RotaryEmbedding& embedding, std::int64_t head_size) {
  return embedding.rotated == 0 ? head_size : embedding.rotated;
}

}  // namespace

at::Tensor inverse_frequencies(const RotaryEmbedding& embedding, std::int64_t head_size) {
  const std::int64_t rotated = rotated_elements(embedding, head_size);
  at::Tensor powers = wavelength_powers(embedding.theta, rotated / 2,
                                        embedding.over_whole_head ? head_size : rotated);
  if (!embedding.divisors.empty()) {
    powers = at::tensor(embedding.divisors, at::kFloat) * powers;
  }
  return std::visit(Rescaled{embedding, rotated, powers}, embedding.scaling);
}

std::vector<std::int64_t> rotary_order(const RotaryEmbedding& embedding, std::int64_t head_size) {
  const std::int64_t rotated = rotated_elements(embedding, head_size);
  std::vector<std::int64_t> order;
  order.reserve(static_cast<std::size_t>(head_size));
  const auto append = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      order.push_back(i);
    }
  };
  if (embedding.over_whole_head) {
    append(0, head_size);
    return order;
  }
  // The first elements of the pairs that turn, then the second ones.
  const auto append_turning = [&](std::int64_t second) {
    for (std::int64_t pair = 0; pair < rotated / 2; ++pair) {
      order.push_back(embedding.adjacent_pairs ? 2 * pair + second : pair + second * rotated / 2);
    }
  };
  const std::int64_t middle = rotated + (head_size - rotated) / 2;
  append_turning(0);
  append(rotated, middle);
  append_turning(1);
  append(middle, head_size);
  return order;
}

}  // namespace bipo
