#include "experiments/evaluation_run/steering_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <tuple>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/batches/normal_numbers.hpp"
#include "trainer/records/records.hpp"

namespace bipo {
namespace {

// Returns what multiplier 1 adds at each place, [D].
std::map<SteeredPlace, std::vector<double>> sums_of_places(
    const std::vector<VectorInUse>& vectors) {
  std::map<SteeredPlace, std::vector<double>> sums;
  for (const VectorInUse& vector : vectors) {
    if (vector.is_conceptor()) {
      continue;
    }
    std::vector<double>& sum = sums[vector.stored.place()];
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

// Returns `hidden` independent normal numbers.
std::vector<double> normal_numbers(std::size_t hidden, std::int64_t layer, std::uint64_t seed,
                                   std::uint32_t draw) {
  std::vector<double> values(hidden + hidden % 2);
  for (std::size_t i = 0; i < values.size(); i += 2) {
    std::tie(values[i], values[i + 1]) = normal_pair_at(i, layer, seed, draw);
  }
  values.resize(hidden);
  return values;
}

// Returns what stands for the layer in the numbers of a random control: at the two sites of a layer
// these are different ones.
std::int64_t numbers_of(const SteeredPlace& place) {
  return place.site == Site::kBlock ? place.layer : -1 - place.layer;
}

std::size_t rows_of(const VectorInUse& conceptor) {
  return static_cast<std::size_t>(
      std::llround(std::sqrt(static_cast<double>(conceptor.matrix.size()))));
}

// Returns the Frobenius norm of beta C - I over all conceptors.
double norm_of_changes(const std::vector<VectorInUse>& conceptors) {
  double sum = 0;
  for (const VectorInUse& conceptor : conceptors) {
    const std::size_t hidden = rows_of(conceptor);
    for (std::size_t i = 0; i < hidden * hidden; ++i) {
      const double identity = i % (hidden + 1) == 0 ? 1 : 0;
      const double change =
          conceptor.choice.weight * static_cast<double>(conceptor.matrix[i]) - identity;
      sum += change * change;
    }
  }
  return std::sqrt(sum);
}

// Conceptors have controls of their own, which need no norm to be scaled to.
void require_conceptors_alone(const std::vector<VectorInUse>& vectors,
                              const std::optional<StoredVector>& caa,
                              const EvaluateOptions& options) {
  for (const VectorInUse& vector : vectors) {
    if (!vector.is_conceptor()) {
      throw UserError(fmt::format(
          "--vector {}: it holds a vector, and another --vector holds a conceptor; controls of the "
          "same norm are for vectors, and moved matrices for conceptors, so evaluate them apart "
          "(generate takes both)",
          vector.choice.file.string()));
    }
  }
  if (caa) {
    throw UserError(fmt::format(
        "--caa {}: a control is scaled to the norm of what the vectors add, and a conceptor adds "
        "nothing that has one norm for all activations; evaluate the mean difference as a --vector "
        "of its own",
        options.caa.file.string()));
  }
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
                        const SteeredPlace& place, std::size_t hidden) {
  const std::string file = options.caa.file.string();
  if (caa.value.size() != hidden) {
    throw UserError(fmt::format("--caa {}: it has {} numbers, but the vectors have {}", file,
                                caa.value.size(), hidden));
  }
  if (caa.layer != place.layer) {
    throw UserError(
        fmt::format("--caa {}: it belongs to layer {}, but the vectors to layer {}; a control must "
                    "act at the same layer",
                    file, caa.layer, place.layer));
  }
  if (caa.site != place.site) {
    throw UserError(
        fmt::format("--caa {}: it was made with --site {}, but the vectors with --site {}; a "
                    "control must act at the same site (extract has --site, too)",
                    file, to_string(caa.site), to_string(place.site)));
  }
  const double own = vector_norm(caa.value);
  if (own == 0) {
    throw UserError(fmt::format("--caa {}: it is zero and has no direction", file));
  }
  if (norm == 0) {
    throw UserError(fmt::format("--caa {}: its weight is 0, which leaves no control", file));
  }
  PlacedVector placed{place.layer, {}, options.intervention, place.site};
  for (const float value : caa.value) {
    placed.value.push_back(static_cast<float>(value * (norm / own)));
  }
  return placed;
}

}  // namespace

std::vector<float> random_direction(std::size_t hidden, double norm, std::int64_t layer,
                                    std::uint64_t seed, std::uint32_t draw) {
  const std::vector<double> values = normal_numbers(hidden, layer, seed, draw);
  const double own = vector_norm(values);
  std::vector<float> direction;
  for (const double value : values) {
    direction.push_back(static_cast<float>(value * (norm / own)));
  }
  return direction;
}

std::vector<float> moved_conceptor(const std::vector<float>& conceptor, std::size_t hidden,
                                   std::int64_t layer, std::uint64_t seed, std::uint32_t draw) {
  // The order of independent numbers is any of all orders, and their signs follow from none.
  const std::vector<double> numbers = normal_numbers(2 * hidden, layer, seed, draw);
  std::vector<std::size_t> from(hidden);
  std::iota(from.begin(), from.end(), std::size_t{0});
  std::stable_sort(from.begin(), from.end(),
                   [&](std::size_t a, std::size_t b) { return numbers[a] < numbers[b]; });
  std::vector<float> moved(conceptor.size());
  for (std::size_t i = 0; i < hidden; ++i) {
    for (std::size_t j = 0; j < hidden; ++j) {
      const bool turns = (numbers[hidden + i] < 0) != (numbers[hidden + j] < 0);
      const float number = conceptor[from[i] * hidden + from[j]];
      moved[i * hidden + j] = turns ? -number : number;
    }
  }
  return moved;
}

SteeringPlan plan_steering(const std::vector<VectorInUse>& vectors,
                           const std::optional<StoredVector>& caa, const EvaluateOptions& options) {
  const bool has_conceptors = std::any_of(vectors.begin(), vectors.end(),
                                          [](const VectorInUse& v) { return v.is_conceptor(); });
  if (has_conceptors) {
    require_conceptors_alone(vectors, caa, options);
  }
  const auto sums = sums_of_places(vectors);
  std::vector<double> norms;
  for (const auto& [place, sum] : sums) {
    norms.push_back(vector_norm(sum));
  }
  const double norm = has_conceptors ? norm_of_changes(vectors) : vector_norm(norms);
  if (!(norm > 0) || !std::isfinite(norm)) {
    throw UserError(fmt::format(
        "the vectors with their weights add up to a norm of {}: there is nothing to evaluate",
        norm));
  }
  const std::size_t hidden =
      has_conceptors ? rows_of(vectors.front()) : sums.begin()->second.size();
  if (caa && sums.size() > 1) {
    throw UserError(
        "--caa needs vectors of one layer and site: a mean difference belongs to one, and these "
        "steer several; leave --caa out (the random control has a direction at each)");
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
    directions[0].coefficients.push_back(vector.coefficient_at_one());
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
    for (const auto& [place, sum] : sums) {
      control.push_back({place.layer,
                         random_direction(hidden, vector_norm(sum), numbers_of(place), options.seed,
                                          static_cast<std::uint32_t>(draw)),
                         options.intervention, place.site});
    }
    for (const VectorInUse& vector : vectors) {
      if (vector.is_conceptor()) {
        control.push_back({vector.stored.layer,
                           moved_conceptor(vector.matrix, hidden, vector.stored.layer, options.seed,
                                           static_cast<std::uint32_t>(draw)),
                           {Intervention::Kind::kConceptor, vector.choice.weight}});
      }
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
      std::vector<double> coefficients;
      for (const VectorInUse& vector : vectors) {
        coefficients.push_back((vector.choice_index == 0 ? first : second) *
                               vector.coefficient_at_one());
      }
      plan.grid.push_back({first, second, setting_of(coefficients)});
    }
  }
  return plan;
}

}  // namespace bipo
