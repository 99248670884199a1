#include "trainer/objective/objective.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

std::size_t place_of(const std::string& name, const std::vector<std::string>& names,
                     const char* what) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) {
    throw UserError(fmt::format("unknown {} '{}'; known: {}", what, name, fmt::join(names, ", ")));
  }
  return static_cast<std::size_t>(found - names.begin());
}

// 1 and 1 where log-probabilities are summed: a division by them changes no bit.
AnswerTokens divisors(const Objective& objective, const AnswerTokens& tokens) {
  return objective.reduction == Reduction::kMean ? tokens : AnswerTokens{};
}

}  // namespace

const std::vector<std::string>& objective_names() {
  static const std::vector<std::string> names = {"bipo", "dpo", "ipo", "simpo", "sft"};
  return names;
}

const std::vector<std::string>& reduction_names() {
  static const std::vector<std::string> names = {"sum", "mean"};
  return names;
}

ObjectiveKind parse_objective(const std::string& name) {
  return static_cast<ObjectiveKind>(place_of(name, objective_names(), "objective"));
}

Reduction parse_reduction(const std::string& name) {
  return static_cast<Reduction>(place_of(name, reduction_names(), "reduction"));
}

const std::string& to_string(ObjectiveKind kind) {
  return objective_names().at(static_cast<std::size_t>(kind));
}

const std::string& to_string(Reduction reduction) {
  return reduction_names().at(static_cast<std::size_t>(reduction));
}

bool uses_reference(ObjectiveKind kind) {
  return kind != ObjectiveKind::kSimpo && kind != ObjectiveKind::kSft;
}

bool has_sigmoid(ObjectiveKind kind) {
  return kind != ObjectiveKind::kIpo && kind != ObjectiveKind::kSft;
}

bool has_two_directions(ObjectiveKind kind) {
  return kind != ObjectiveKind::kDpo;
}

Reduction own_reduction(ObjectiveKind kind) {
  return kind == ObjectiveKind::kBipo || kind == ObjectiveKind::kDpo ? Reduction::kSum
                                                                     : Reduction::kMean;
}

AnswerLogProbs reduced(const Objective& objective, const AnswerLogProbs& policy,
                       const AnswerTokens& tokens) {
  const AnswerTokens by = divisors(objective, tokens);
  return {policy.chosen / by.chosen, policy.rejected / by.rejected};
}

PairObjective pair_objective(const Objective& objective, const AnswerLogProbs& policy,
                             const AnswerLogProbs& reference, const AnswerTokens& tokens,
                             double direction) {
  const AnswerTokens by = divisors(objective, tokens);
  const AnswerLogProbs base = uses_reference(objective.kind) ? reference : AnswerLogProbs{};
  const double beta = objective.beta;
  const double delta =
      (policy.chosen - base.chosen) / by.chosen - (policy.rejected - base.rejected) / by.rejected;
  PairObjective result;
  result.margin = direction * beta * delta;
  double slope = 0;  // d loss / d delta
  switch (objective.kind) {
    case ObjectiveKind::kBipo:
    case ObjectiveKind::kDpo:
    case ObjectiveKind::kSimpo: {
      const double gamma = objective.kind == ObjectiveKind::kSimpo ? objective.simpo_gamma : 0;
      const double z = result.margin - gamma;
      const double smoothing = objective.label_smoothing;
      result.loss = -(1 - smoothing) * log_sigmoid(z) - smoothing * log_sigmoid(-z);
      slope = -direction * beta *
              ((1 - smoothing) * std::exp(log_sigmoid(-z)) - smoothing * std::exp(log_sigmoid(z)));
      break;
    }
    case ObjectiveKind::kIpo: {
      const double distance = direction * delta - 1 / (2 * beta);
      result.loss = distance * distance;
      slope = 2 * direction * distance;
      break;
    }
    case ObjectiveKind::kSft: {
      const bool is_chosen = direction > 0;
      result.loss = is_chosen ? -policy.chosen / by.chosen : -policy.rejected / by.rejected;
      result.slope =
          is_chosen ? AnswerLogProbs{-1 / by.chosen, 0} : AnswerLogProbs{0, -1 / by.rejected};
      return result;
    }
  }
  result.slope = {slope / by.chosen, -slope / by.rejected};
  return result;
}

double largest_loss(const Objective& objective, double nats) {
  switch (objective.kind) {
    case ObjectiveKind::kIpo: {
      const double distance = nats + 1 / (2 * objective.beta);
      return distance * distance;
    }
    case ObjectiveKind::kSft:
      return nats;
    case ObjectiveKind::kSimpo:
      return std::log(2.0) + objective.beta * nats + std::abs(objective.simpo_gamma);
    default:
      return std::log(2.0) + objective.beta * nats;
  }
}

}  // namespace bipo
