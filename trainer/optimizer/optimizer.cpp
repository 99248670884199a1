#include "trainer/optimizer/optimizer.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <span>

#include "datasets/batches/normal_numbers.hpp"
#include "trainer/records/records.hpp"

namespace bipo {

void AdamW::update(std::vector<float>& vector, std::vector<float>& exp_avg,
                   std::vector<float>& exp_avg_sq, const std::vector<double>& gradient, double lr,
                   std::int64_t step) const {
  const auto count = static_cast<double>(step + 1);
  const double correction1 = 1 - std::pow(beta1, count);
  const double correction2 = 1 - std::pow(beta2, count);
  for (std::size_t i = 0; i < vector.size(); ++i) {
    const double g = gradient[i];
    exp_avg[i] = static_cast<float>(beta1 * exp_avg[i] + (1 - beta1) * g);
    exp_avg_sq[i] = static_cast<float>(beta2 * exp_avg_sq[i] + (1 - beta2) * g * g);
    const double decayed = vector[i] * (1 - lr * weight_decay);
    const double denominator = std::sqrt(exp_avg_sq[i] / correction2) + epsilon;
    vector[i] = static_cast<float>(decayed - lr * (exp_avg[i] / correction1) / denominator);
  }
}

double schedule_factor(Schedule schedule, std::int64_t step, std::int64_t warmup,
                       std::int64_t total) {
  if (step < warmup) {
    return static_cast<double>(step) / static_cast<double>(std::max<std::int64_t>(1, warmup));
  }
  if (schedule == Schedule::kConstant) {
    return 1;
  }
  const double progress = static_cast<double>(step - warmup) /
                          static_cast<double>(std::max<std::int64_t>(1, total - warmup));
  if (schedule == Schedule::kLinear) {
    return std::max(0.0, 1 - progress);
  }
  return std::max(0.0, 0.5 * (1 + std::cos(std::numbers::pi * progress)));
}

void NormControl::apply(std::vector<float>& vector, std::int64_t parts) const {
  const std::size_t size = vector.size() / static_cast<std::size_t>(parts);
  for (std::size_t first = 0; first < vector.size(); first += size) {
    const std::span<float> part(vector.data() + first, size);
    const double length = vector_norm(part);
    const bool is_scaled = rule == NormRule::kFixed || (rule == NormRule::kMax && length > norm);
    if (!is_scaled || length == 0 || !std::isfinite(length)) {
      continue;
    }
    for (float& value : part) {
      value = static_cast<float>(norm / length * value);
    }
  }
}

std::vector<float> random_start(std::int64_t hidden, double norm, std::uint64_t seed,
                                std::int64_t parts) {
  constexpr std::uint32_t kRandomStart = 0x73747274;  // distinct from the seed's other uses
  std::vector<float> vector;
  for (std::int64_t part = 0; part < parts; ++part) {
    std::vector<double> numbers;
    for (std::int64_t i = 0; i < hidden; i += 2) {
      const auto [first, second] = normal_pair(
          {static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(part), kRandomStart, 0}, seed);
      numbers.insert(numbers.end(), {first, second});
    }
    numbers.resize(static_cast<std::size_t>(hidden));
    const double length = vector_norm(numbers);
    for (const double number : numbers) {
      vector.push_back(static_cast<float>(norm / length * number));
    }
  }
  return vector;
}

double clip_norm(std::vector<double>& gradient, double max_norm) {
  const double length = vector_norm(gradient);
  // torch adds this to the norm, too.
  const double factor = max_norm / (length + 1e-6);
  if (max_norm > 0 && factor < 1) {
    for (double& g : gradient) {
      g *= factor;
    }
  }
  return length;
}

}  // namespace bipo
