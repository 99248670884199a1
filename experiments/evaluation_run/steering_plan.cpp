#include "experiments/evaluation_run/steering_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/batches/normal_numbers.hpp"
#include "trainer/records/records.hpp"

namespace bipo {
namespace {

// Returns what multiplier 1 adds at each layer, [D].
std::map<std::int64_t, std::vector<double>> sums_of_layers(
    const std::vector<VectorInUse>& vectors) {
  std::map<std::int64_t, std::vector<double>> sums;
  for (const VectorInUse& vector : vectors) {
    std::vector<double>& sum = sums[vector.stored.layer];
    sum.resize(vector.stored.value.size(), 0.0);
    for (std::size_t i = 0; i < sum.size(); ++i) {
      sum[i] += vector.choice.weight * vector.stored.value[i];
    }
  }
  return sums;
}

// Returns the normal numbers i and i + 1 for even i.
std::pair<double, double> normal_pair_at(std::size_t i, std::int64_t layer, std::uint64_t seed,
                                         std::uint32_t draw) {
  constexpr std::uint32_t kRandomDirection = 0x72646972;  // distinct from the seed's other uses
  return normal_pair(
      {static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(layer), kRandomDirection, draw},
      seed);
}

// Collects settings, each once.
class SettingList {
 public:
  explicit SettingList(std::vector<std::vector<double>>& settings) : settings_(settings) {}

  std::size_t index_of(const std::vector<double>& coefficients) {
    const auto found = std::find(settings_.begin(), settings_.end(), coefficients);
    if (found != settings_.end()) {
      return static_cast<std::size_t>(found - settings_.begin());
    }
    settings_.push_back(coefficients);
    return settings_.size() - 1;
  }

 private:
  std::vector<std::vector<double>>& settings_;
};

// Returns the control scaled to `norm`, which is below 0 where it is to point the other way.
PlacedVector scaled_caa(const StoredVector& caa, const EvaluateOptions& options, double norm,
                        std::int64_t layer, std::size_t hidden) {
  const std::string file = options.caa.file.string();
  if (caa.value.size() != hidden) {
    throw UserError(fmt::format("--caa {}: it has {} numbers, but the vectors have {}", file,
                                caa.value.size(), hidden));
  }
  if (caa.layer != layer) {
    throw UserError(
        fmt::format("--caa {}: it belongs to layer {}, but the vectors to layer {}; a control must "
                    "act at the same layer",
                    file, caa.layer, layer));
  }
  const double own = vector_norm(caa.value);
  if (own == 0) {
    throw UserError(fmt::format("--caa {}: it is zero and has no direction", file));
  }
  if (norm == 0) {
    throw UserError(fmt::format("--caa {}: its weight is 0, which leaves no control", file));
  }
  PlacedVector placed{layer, {}, options.intervention};
  for (const float value : caa.value) {
    placed.value.push_back(static_cast<float>(value * (norm / own)));
  }
  return placed;
}

}  // namespace

std::vector<float> random_direction(std::size_t hidden, double norm, std::int64_t layer,
                                    std::uint64_t seed, std::uint32_t draw) {
  std::vector<double> values(hidden + hidden % 2);
  for (std::size_t i = 0; i < values.size(); i += 2) {
    std::tie(values[i], values[i + 1]) = normal_pair_at(i, layer, seed, draw);
  }
  values.resize(hidden);
  const double own = vector_norm(values);
  std::vector<float> direction;
  for (const double value : values) {
    direction.push_back(static_cast<float>(value * (norm / own)));
  }
  return direction;
}

SteeringPlan plan_steering(const std::vector<VectorInUse>& vectors,
                           const std::optional<StoredVector>& caa, const EvaluateOptions& options) {
  const auto sums = sums_of_layers(vectors);
  std::vector<double> norms;
  for (const auto& [layer, sum] : sums) {
    norms.push_back(vector_norm(sum));
  }
  const double norm = vector_norm(norms);
  if (!(norm > 0) || !std::isfinite(norm)) {
    throw UserError(fmt::format(
        "the vectors with their weights add up to a norm of {}: there is nothing to evaluate",
        norm));
  }
  const std::size_t hidden = sums.begin()->second.size();
  if (caa && sums.size() > 1) {
    throw UserError(
        "--caa needs vectors of one layer: a mean difference belongs to one, and these steer "
        "several; leave --caa out (the random control has a direction in each layer)");
  }

  SteeringPlan plan;
  plan.vectors = placed(vectors, options.intervention);
  struct AtOne {  // multiplier
    std::string name;
    double norm = 0;
    std::vector<double> coefficients;
  };
  std::vector<AtOne> directions = {{"vector", norm, {}}};
  for (const VectorInUse& vector : vectors) {
    directions[0].coefficients.push_back(vector.choice.weight);
  }
  const auto add_control = [&](const std::string& name, double length,
                               const std::vector<PlacedVector>& control) {
    std::vector<double> coefficients(plan.vectors.size(), 0.0);
    coefficients.resize(plan.vectors.size() + control.size(), 1.0);
    directions.push_back({name, length, coefficients});
    plan.vectors.insert(plan.vectors.end(), control.begin(), control.end());
  };
  if (caa) {
    const double scaled = norm * options.caa.weight;
    add_control("caa", std::abs(scaled),
                {scaled_caa(*caa, options, scaled, sums.begin()->first, hidden)});
  }
  const std::size_t everywhere = directions.size() + (options.random_directions() > 0 ? 1 : 0);
  for (std::int64_t draw = 0; draw < options.random_directions(); ++draw) {
    std::vector<PlacedVector> control;
    for (const auto& [layer, sum] : sums) {
      control.push_back({layer,
                         random_direction(hidden, vector_norm(sum), layer, options.seed,
                                          static_cast<std::uint32_t>(draw)),
                         options.intervention});
    }
    add_control(draw == 0 ? "random" : fmt::format("random-{}", draw + 1), norm, control);
  }

  SettingList settings(plan.coefficients);
  const auto setting_of = [&](std::vector<double> coefficients) {
    coefficients.resize(plan.vectors.size(), 0.0);
    for (double& coefficient : coefficients) {
      coefficient += 0.0;  // -0 is 0
    }
    return settings.index_of(coefficients);
  };
  setting_of({});
  for (const AtOne& at_one : directions) {
    const bool is_further_draw = plan.directions.size() >= everywhere;
    if (plan.directions.size() == everywhere) {
      plan.direction_settings = plan.coefficients.size();
    }
    Direction& direction =
        plan.directions.emplace_back(Direction{at_one.name, at_one.norm, {}, is_further_draw});
    for (const double multiplier : options.multipliers) {
      std::vector<double> coefficients = at_one.coefficients;
      for (double& coefficient : coefficients) {
        coefficient *= multiplier;
      }
      direction.settings.push_back(setting_of(coefficients));
    }
  }
  if (plan.directions.size() == everywhere) {
    plan.direction_settings = plan.coefficients.size();
  }
  for (const double first : options.grid) {
    for (const double second : options.grid) {
      plan.grid.push_back(
          {first, second,
           setting_of({first * vectors[0].choice.weight, second * vectors[1].choice.weight})});
    }
  }
  return plan;
}

}  // namespace bipo
