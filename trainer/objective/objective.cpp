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

// Whether the margin is measured from the reference; kReps takes weights from it alone.
bool is_in_margin(ObjectiveKind kind) {
  return uses_reference(kind) && kind != ObjectiveKind::kReps;
}

// A log sigmoid with smoothed labels.
struct SmoothedLoss {
  double loss = 0;
  double descent = 0;  // - d loss / d z
};

SmoothedLoss smoothed_loss(double z, double smoothing) {
  return {-(1 - smoothing) * log_sigmoid(z) - smoothing * log_sigmoid(-z),
          (1 - smoothing) * std::exp(log_sigmoid(-z)) - smoothing * std::exp(log_sigmoid(z))};
}

// By which the argument of kReps's sigma takes log pi of each answer.
AnswerLogProbs reps_weights(const AnswerLogProbs& reference, const AnswerTokens& by,
                            double direction) {
  const double ahead = direction * (reference.rejected - reference.chosen);
  const double trained = std::max(ahead, 1.0);
  return direction > 0 ? AnswerLogProbs{trained / by.chosen, -1 / by.rejected}
                       : AnswerLogProbs{-1 / by.chosen, trained / by.rejected};
}

}  // namespace

const std::vector<std::string>& objective_names() {
  static const std::vector<std::string> names = {"bipo", "dpo",      "ipo", "simpo",
                                                 "sft",  "suppress", "reps"};
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
  return kind != ObjectiveKind::kSimpo && kind != ObjectiveKind::kSft &&
         kind != ObjectiveKind::kSuppress;
}

bool has_sigmoid(ObjectiveKind kind) {
  return kind != ObjectiveKind::kIpo && kind != ObjectiveKind::kSft &&
         kind != ObjectiveKind::kSuppress;
}

bool has_two_directions(ObjectiveKind kind) {
  return kind != ObjectiveKind::kDpo;
}

bool projects_out(ObjectiveKind kind) {
  return kind == ObjectiveKind::kReps;
}

bool uses_complements(ObjectiveKind kind) {
  return kind == ObjectiveKind::kSuppress;
}

Reduction own_reduction(ObjectiveKind kind) {
  const bool sums = kind == ObjectiveKind::kBipo || kind == ObjectiveKind::kDpo ||
                    kind == ObjectiveKind::kSuppress;
  return sums ? Reduction::kSum : Reduction::kMean;
}

AnswerLogProbs reduced(const Objective& objective, const AnswerLogProbs& policy,
                       const AnswerTokens& tokens) {
  const AnswerTokens by = divisors(objective, tokens);
  return {policy.chosen / by.chosen, policy.rejected / by.rejected};
}

Complement complement(double log_prob) {
  const double bounded = std::min(log_prob, kMostLogProb);
  const double slope = -1 / std::expm1(-bounded);
  // Each of the two is exact where the other cancels.
  const double value =
      bounded > -std::log(2.0) ? std::log(-std::expm1(bounded)) : std::log1p(-std::exp(bounded));
  return {value + slope * std::max(log_prob - kMostLogProb, 0.0), slope};
}

PairObjective pair_objective(const Objective& objective, const AnswerLogProbs& policy,
                             const AnswerLogProbs& reference, const AnswerTokens& tokens,
                             double direction, const AnswerLogProbs& complements) {
  const AnswerTokens by = divisors(objective, tokens);
  const AnswerLogProbs base = is_in_margin(objective.kind) ? reference : AnswerLogProbs{};
  const double beta = objective.beta;
  const double delta =
      (policy.chosen - base.chosen) / by.chosen - (policy.rejected - base.rejected) / by.rejected;
  const bool is_chosen = direction > 0;  // what is trained, or not suppressed
  PairObjective result;
  result.margin = direction * beta * delta;
  double slope = 0;  // d loss / d delta
  switch (objective.kind) {
    case ObjectiveKind::kBipo:
    case ObjectiveKind::kDpo:
    case ObjectiveKind::kSimpo: {
      const double gamma = objective.kind == ObjectiveKind::kSimpo ? objective.simpo_gamma : 0;
      const SmoothedLoss found = smoothed_loss(result.margin - gamma, objective.label_smoothing);
      result.loss = found.loss;
      slope = -direction * beta * found.descent;
      break;
    }
    case ObjectiveKind::kIpo: {
      const double distance = direction * delta - 1 / (2 * beta);
      result.loss = distance * distance;
      slope = 2 * direction * distance;
      break;
    }
    case ObjectiveKind::kSft:
      result.loss = is_chosen ? -policy.chosen / by.chosen : -policy.rejected / by.rejected;
      result.slope =
          is_chosen ? AnswerLogProbs{-1 / by.chosen, 0} : AnswerLogProbs{0, -1 / by.rejected};
      return result;
    case ObjectiveKind::kSuppress:
      result.loss =
          is_chosen ? -complements.rejected / by.rejected : -complements.chosen / by.chosen;
      result.complement_slope =
          is_chosen ? AnswerLogProbs{0, -1 / by.rejected} : AnswerLogProbs{-1 / by.chosen, 0};
      return result;
    case ObjectiveKind::kReps: {
      const AnswerLogProbs weight = reps_weights(reference, by, direction);
      const SmoothedLoss found =
          smoothed_loss(weight.chosen * policy.chosen + weight.rejected * policy.rejected,
                        objective.label_smoothing);
      result.loss = found.loss;
      result.slope = {-found.descent * weight.chosen, -found.descent * weight.rejected};
      return result;
    }
  }
  result.slope = {slope / by.chosen, -slope / by.rejected};
  return result;
}

PairForm pair_form(const Objective& objective, const AnswerLogProbs& reference,
                   const AnswerTokens& tokens, double direction) {
  const AnswerLogProbs share = reduced(objective, {1, 1}, tokens);
  const double along = direction * objective.beta;
  const bool is_chosen = direction > 0;
  PairForm form;
  form.margin = {share.chosen * along, share.rejected * -along};
  if (is_in_margin(objective.kind)) {
    const AnswerLogProbs base = reduced(objective, reference, tokens);
    form.offset = -along * (base.chosen - base.rejected);
  }
  if (has_sigmoid(objective.kind)) {
    form.sigmoid = 1 - objective.label_smoothing;
    form.smoothed = objective.label_smoothing;
  }
  switch (objective.kind) {
    case ObjectiveKind::kBipo:
    case ObjectiveKind::kDpo:
      break;
    case ObjectiveKind::kSimpo:
      form.gamma = objective.simpo_gamma;
      break;
    case ObjectiveKind::kIpo:
      form.square = 1;
      form.scale = 1 / objective.beta;
      form.shift = 1 / (2 * objective.beta);
      break;
    case ObjectiveKind::kSft:
      form.plain =
          is_chosen ? AnswerLogProbs{-share.chosen, 0} : AnswerLogProbs{0, -share.rejected};
      break;
    case ObjectiveKind::kSuppress:
      form.complement =
          is_chosen ? AnswerLogProbs{0, -share.rejected} : AnswerLogProbs{-share.chosen, 0};
      break;
    case ObjectiveKind::kReps: {
      const AnswerLogProbs weight = reps_weights(reference, divisors(objective, tokens), direction);
      form.argument = {weight.chosen - form.margin.chosen, weight.rejected - form.margin.rejected};
      break;
    }
  }
  return form;
}

double largest_loss(const Objective& objective, double nats) {
  switch (objective.kind) {
    case ObjectiveKind::kIpo: {
      const double distance = nats + 1 / (2 * objective.beta);
      return distance * distance;
    }
    case ObjectiveKind::kSft:
    case ObjectiveKind::kSuppress:
      return nats;
    case ObjectiveKind::kReps:
      return std::log(2.0) + nats + std::max(nats - 1, 0.0) * nats;
    case ObjectiveKind::kSimpo:
      return std::log(2.0) + objective.beta * nats + std::abs(objective.simpo_gamma);
    default:
      return std::log(2.0) + objective.beta * nats;
  }
}

}  // namespace bipo
