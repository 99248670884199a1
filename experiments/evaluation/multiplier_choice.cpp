#include "experiments/evaluation/multiplier_choice.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/batches/philox.hpp"

namespace bipo {
namespace {

// Keeps these random numbers apart from the seed's other uses.
constexpr std::uint32_t kChoiceStream = 0x63686f6f;

std::uint64_t draw(std::size_t pair, std::uint64_t seed) {
  const auto words =
      philox4x32({static_cast<std::uint32_t>(pair),
                  static_cast<std::uint32_t>(std::uint64_t{pair} >> 32), 0, kChoiceStream},
                 {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  return std::uint64_t{words[0]} << 32 | words[1];
}

double preference(const PairLogProbs& pair) {
  return pair.chosen > pair.rejected ? 1 : 0;
}

// Differences from the reference, of propensity and of accuracy, over some of the pairs.
struct Changes {
  std::vector<double> propensity;
  std::vector<double> accuracy;
};

Changes changes_of(const std::vector<PairLogProbs>& pairs,
                   const std::vector<PairLogProbs>& reference, const std::vector<bool>& chooses,
                   bool of_choosing) {
  Changes changes;
  for (std::size_t p = 0; p < pairs.size(); ++p) {
    if (chooses[p] == of_choosing) {
      changes.propensity.push_back(pairs[p].propensity() - reference[p].propensity());
      changes.accuracy.push_back(preference(pairs[p]) - preference(reference[p]));
    }
  }
  return changes;
}

struct Candidate {
  std::size_t place = 0;  // among the multipliers
  double change = 0;      // on the choosing pairs
};

}  // namespace

std::vector<bool> draw_choosing_pairs(std::size_t pairs, double share, std::uint64_t seed) {
  if (pairs < 2) {
    throw UserError(fmt::format(
        "--choose-on: {} held-out pair{} cannot both choose a multiplier and report it; give at "
        "least two",
        pairs, pairs == 1 ? "" : "s"));
  }
  std::vector<std::pair<std::uint64_t, std::size_t>> order;
  for (std::size_t pair = 0; pair < pairs; ++pair) {
    order.emplace_back(draw(pair, seed), pair);
  }
  std::sort(order.begin(), order.end());
  const auto wanted = static_cast<std::size_t>(std::llround(share * static_cast<double>(pairs)));
  std::vector<bool> chooses(pairs, false);
  for (std::size_t i = 0; i < std::clamp<std::size_t>(wanted, 1, pairs - 1); ++i) {
    chooses[order[i].second] = true;
  }
  return chooses;
}

void add_chosen(Evaluation& evaluation, const DirectionScores& scores,
                const std::vector<PairLogProbs>& reference, const std::vector<bool>& chooses,
                std::uint64_t seed) {
  for (const int aim : {1, -1}) {
    std::optional<Candidate> best;
    for (std::size_t m = 0; m < scores.multipliers.size(); ++m) {
      if (scores.multipliers[m] * aim <= 0) {
        continue;
      }
      const double change =
          mean(changes_of(scores.pairs[m], reference, chooses, /*of_choosing=*/true).propensity);
      const bool is_smaller =
          best && std::abs(scores.multipliers[m]) < std::abs(scores.multipliers[best->place]);
      if (!best || aim * change > aim * best->change || (change == best->change && is_smaller)) {
        best = {m, change};
      }
    }
    if (!best) {
      continue;
    }
    const Changes others =
        changes_of(scores.pairs[best->place], reference, chooses, /*of_choosing=*/false);
    ChosenRow row;
    row.direction = scores.direction;
    row.aim = aim;
    row.multiplier = scores.multipliers[best->place];
    row.choosing_pairs = std::count(chooses.begin(), chooses.end(), true);
    row.chosen_on = best->change;
    row.pairs = static_cast<std::int64_t>(others.propensity.size());
    row.propensity = bootstrap_mean(others.propensity, seed);
    row.accuracy = bootstrap_mean(others.accuracy, seed);
    evaluation.chosen.push_back(std::move(row));
  }
}

}  // namespace bipo
