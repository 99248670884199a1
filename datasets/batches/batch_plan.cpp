// Batches, micro-batches and signs as pure functions of (seed, epoch, index).
#include "datasets/batches/batch_plan.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/batches/philox.hpp"

namespace bipo {
namespace {

// Keeps the random numbers of different purposes apart under one seed.
enum class Stream : std::uint32_t { kShuffle = 0, kBatchSign = 1, kPairSign = 2, kFactor = 3 };

std::uint64_t random_bits(std::uint64_t seed, Stream stream, std::int32_t epoch,
                          std::int64_t index) {
  const auto position = static_cast<std::uint64_t>(index);
  const auto words =
      philox4x32({static_cast<std::uint32_t>(position), static_cast<std::uint32_t>(position >> 32),
                  static_cast<std::uint32_t>(epoch), static_cast<std::uint32_t>(stream)},
                 {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  return (static_cast<std::uint64_t>(words[1]) << 32) | words[0];
}

std::int8_t random_sign(std::uint64_t seed, Stream stream, std::int32_t epoch, std::int64_t index) {
  const bool negative = (random_bits(seed, stream, epoch, index) & 1U) != 0;
  return static_cast<std::int8_t>(negative ? -1 : 1);
}

// Returns d of the whole step, 0 where the step has several.
std::int8_t step_sign(const PlanSettings& settings, std::int32_t epoch,
                      std::int64_t step_in_epoch) {
  switch (settings.sign) {
    case SignRule::kBatch:
      return random_sign(settings.seed, Stream::kBatchSign, epoch, step_in_epoch);
    case SignRule::kPlus:
      return 1;
    case SignRule::kMinus:
      return -1;
    case SignRule::kPair:
    case SignRule::kBoth:
      return 0;
  }
  throw BugError(fmt::format("sign rule {} is not known", static_cast<int>(settings.sign)));
}

std::vector<std::vector<std::int8_t>> signs_of_passes(const PlanSettings& settings,
                                                      const StepPlan& plan,
                                                      const std::vector<std::int64_t>& batch) {
  if (settings.sign == SignRule::kBoth) {
    return {std::vector<std::int8_t>(batch.size(), 1), std::vector<std::int8_t>(batch.size(), -1)};
  }
  std::vector<std::int8_t> signs(batch.size(), plan.logged_sign);
  if (settings.sign == SignRule::kPair) {
    std::transform(batch.begin(), batch.end(), signs.begin(), [&](std::int64_t pair) {
      return random_sign(settings.seed, Stream::kPairSign, plan.epoch, pair);
    });
  }
  return {signs};
}

// Draws each pair's factor: the bits are a fraction of 2^64, of which every factor has an equal
// part.
std::vector<double> factors_of(const PlanSettings& settings, std::int32_t epoch,
                               const std::vector<std::int64_t>& batch) {
  std::vector<double> factors;
  for (const std::int64_t pair : batch) {
    const std::uint64_t upper = random_bits(settings.seed, Stream::kFactor, epoch, pair) >> 32;
    factors.push_back(settings.factors[(upper * settings.factors.size()) >> 32]);
  }
  return factors;
}

void require_at_least(std::int64_t value, std::int64_t least, const char* what) {
  if (value < least) {
    throw UserError(fmt::format("{} must be at least {}, but is {}", what, least, value));
  }
}

}  // namespace

const std::vector<std::string>& sign_names() {
  static const std::vector<std::string> names = {"batch", "pair", "both", "plus", "minus"};
  return names;
}

SignRule parse_sign_rule(const std::string& name) {
  const auto found = std::find(sign_names().begin(), sign_names().end(), name);
  if (found == sign_names().end()) {
    throw UserError(fmt::format("--sign: unknown rule '{}'; use one of {}", name,
                                fmt::join(sign_names(), ", ")));
  }
  return static_cast<SignRule>(found - sign_names().begin());
}

const std::string& to_string(SignRule rule) {
  return sign_names().at(static_cast<std::size_t>(rule));
}

BatchPlan::BatchPlan(PlanSettings settings) : settings_(std::move(settings)) {
  require_at_least(settings_.pairs, 1, "the number of training pairs");
  require_at_least(settings_.batch_size, 1, "--batch-size");
  require_at_least(settings_.micro_batch, 1, "--micro-batch");
  require_at_least(settings_.epochs, 1, "--epochs");
  require_at_least(settings_.max_steps, 0, "--max-steps");
  if (settings_.factors.empty()) {
    throw BugError("a plan without a factor");
  }
  if (!settings_.costs.empty() &&
      settings_.costs.size() != static_cast<std::size_t>(settings_.pairs)) {
    throw BugError(fmt::format("{} costs for {} pairs", settings_.costs.size(), settings_.pairs));
  }
  constexpr std::int64_t kMostEpochs = std::numeric_limits<std::int32_t>::max();
  if (settings_.epochs > kMostEpochs) {
    throw UserError(
        fmt::format("--epochs must be at most {}, but is {}", kMostEpochs, settings_.epochs));
  }
}

std::int64_t BatchPlan::steps_per_epoch() const {
  return (settings_.pairs - 1) / settings_.batch_size + 1;
}

std::int64_t BatchPlan::total_steps() const {
  const std::int64_t whole = settings_.epochs * steps_per_epoch();
  return settings_.max_steps > 0 ? std::min(settings_.max_steps, whole) : whole;
}

std::int32_t BatchPlan::epoch_of(std::int64_t step) const {
  return static_cast<std::int32_t>(step / steps_per_epoch());
}

std::vector<std::int64_t> BatchPlan::order(std::int32_t epoch) const {
  std::vector<std::int64_t> order(static_cast<std::size_t>(settings_.pairs));
  std::iota(order.begin(), order.end(), 0);
  if (settings_.shuffle) {
    std::vector<std::uint64_t> keys;
    for (const std::int64_t pair : order) {
      keys.push_back(random_bits(settings_.seed, Stream::kShuffle, epoch, pair));
    }
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return keys[static_cast<std::size_t>(a)] < keys[static_cast<std::size_t>(b)];
    });
  }
  return order;
}

StepPlan BatchPlan::step(std::int64_t index, const std::vector<std::int64_t>& order) const {
  if (index < 0 || index >= total_steps()) {
    throw BugError(fmt::format("step {} of a plan of {} steps", index, total_steps()));
  }
  const std::int64_t step_in_epoch = index % steps_per_epoch();
  const std::int64_t begin = step_in_epoch * settings_.batch_size;
  const std::int64_t size = std::min(settings_.batch_size, settings_.pairs - begin);

  StepPlan plan;
  plan.step = index;
  plan.epoch = epoch_of(index);
  plan.ends_epoch = step_in_epoch == steps_per_epoch() - 1;
  plan.pairs = size;

  const std::vector<std::int64_t> drawn(order.begin() + begin, order.begin() + begin + size);
  std::vector<std::int64_t> costs;
  for (const std::int64_t pair : drawn) {
    costs.push_back(settings_.costs.empty() ? 1 : settings_.costs[static_cast<std::size_t>(pair)]);
  }
  plan.micro_batches = balanced_groups(costs, settings_.micro_batch);
  std::vector<std::int64_t> batch;
  for (auto& micro_batch : plan.micro_batches) {
    for (std::int64_t& pair : micro_batch) {
      pair = drawn[static_cast<std::size_t>(pair)];
      batch.push_back(pair);
    }
  }

  plan.logged_sign = step_sign(settings_, plan.epoch, step_in_epoch);
  plan.passes = signs_of_passes(settings_, plan, batch);
  plan.factors = factors_of(settings_, plan.epoch, batch);
  return plan;
}

std::vector<std::vector<std::int64_t>> balanced_groups(const std::vector<std::int64_t>& costs,
                                                       std::int64_t group_size) {
  auto groups = consecutive_groups(static_cast<std::int64_t>(costs.size()), group_size);
  const auto [least, most] = std::minmax_element(costs.begin(), costs.end());
  if (groups.size() < 2 || *least == *most) {
    return groups;
  }
  std::vector<std::int64_t> costliest_first(costs.size());
  std::iota(costliest_first.begin(), costliest_first.end(), 0);
  const auto cost_of = [&](std::int64_t item) { return costs[static_cast<std::size_t>(item)]; };
  std::stable_sort(costliest_first.begin(), costliest_first.end(),
                   [&](std::int64_t a, std::int64_t b) { return cost_of(a) > cost_of(b); });
  std::vector<std::size_t> room;
  for (auto& group : groups) {
    room.push_back(group.size());
    group.clear();
  }
  std::vector<std::int64_t> spent(groups.size(), 0);
  for (const std::int64_t item : costliest_first) {
    std::size_t cheapest = groups.size();
    for (std::size_t g = 0; g < groups.size(); ++g) {
      if (groups[g].size() < room[g] && (cheapest == groups.size() || spent[g] < spent[cheapest])) {
        cheapest = g;
      }
    }
    groups[cheapest].push_back(item);
    spent[cheapest] += cost_of(item);
  }
  for (auto& group : groups) {
    std::sort(group.begin(), group.end());
  }
  return groups;
}

std::vector<std::vector<std::int64_t>> consecutive_groups(std::int64_t count,
                                                          std::int64_t group_size) {
  if (count < 0 || group_size < 1) {
    throw BugError(fmt::format("cannot cut {} items into groups of {}", count, group_size));
  }
  std::vector<std::vector<std::int64_t>> groups;
  for (std::int64_t begin = 0; begin < count;) {
    const std::int64_t size = std::min(group_size, count - begin);
    auto& group = groups.emplace_back();
    for (std::int64_t item = begin; item < begin + size; ++item) {
      group.push_back(item);
    }
    begin += size;
  }
  return groups;
}

}  // namespace bipo
