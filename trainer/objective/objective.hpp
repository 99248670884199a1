// The training objectives: loss and slopes of one pair, in closed form.
#pragma once

#include <cmath>
#include <compare>
#include <string>
#include <vector>

namespace bipo {

// Log-probabilities of a pair's answers, nats, each summed over its scored tokens.  Also used for
// what is counted or differentiated by each of them.
struct AnswerLogProbs {
  double chosen = 0;
  double rejected = 0;
};

// Numbers of scored tokens of a pair's answers.
struct AnswerTokens {
  double chosen = 1;
  double rejected = 1;
};

// With s(y) = log pi(y) or, by Reduction::kMean, log pi(y) / |y|; s_0 the same of the reference,
// the model without the vector; yc the chosen answer and yr the rejected one; x = s(yc) - s(yr),
// x_0 = s_0(yc) - s_0(yr), and sigma the logistic function:
//   kBipo   -log sigma(beta (x - x_0))        Cao et al., arXiv 2406.00045, equation 2
//   kDpo    the same                          Rafailov et al., arXiv 2305.18290, equation 7
//   kIpo    (x - x_0 - 1 / (2 beta))^2        Azar et al., arXiv 2310.12036, equation 17
//   kSimpo  -log sigma(beta x - gamma)        Meng et al., arXiv 2405.14734, equation 6
//   kSft    -s(yc)                            the cross-entropy of the chosen answer
//   kSuppress  -u(yr)                         Dunefsky and Cohan, arXiv 2502.18862
//   kReps   -log sigma(b s(yc) - s(yr))       RePS, Wu et al., arXiv 2505.20809
// where u(y) is the sum (or mean) of log(1 - pi) over the tokens of y, see complement(), and
// b = max(log pi_0(yr) - log pi_0(yc), 1), of sums whatever the reduction, keeps an answer that the
// model finds unlikely from being lost beside the other.
//
// A step that adds the vector in direction -1 trains the same with yc and yr exchanged.  kDpo knows
// the direction +1 only; in that BiPO differs from it.  kReps has both in every step, and its
// direction -1 does not add -v but projects v out of the residual stream.
enum class ObjectiveKind { kBipo, kDpo, kIpo, kSimpo, kSft, kSuppress, kReps };

// How log-probabilities of an answer's tokens become one number: their sum, or their mean.
enum class Reduction { kSum, kMean };

struct Objective {
  ObjectiveKind kind = ObjectiveKind::kBipo;
  double beta = 0.1;
  // e: the loss becomes (1 - e) loss + e (loss with yc and yr exchanged), Mitchell's conservative
  // DPO (ericmitchell.ai/cdpo.pdf, equation 3); for the objectives with a sigmoid.  In kSimpo gamma
  // stays on its side, as in TRL: (1 - e) (-log sigma(z)) + e (-log sigma(-z)), z = beta x - gamma;
  // kReps likewise, z the argument of its sigma.
  double label_smoothing = 0;
  double simpo_gamma = 0.5;  // of kSimpo
  Reduction reduction = Reduction::kSum;

  auto operator<=>(const Objective&) const = default;
};

// Names in the order of the enumerations: bipo, dpo, ipo, simpo, sft, suppress, reps; sum, mean.
const std::vector<std::string>& objective_names();
const std::vector<std::string>& reduction_names();
ObjectiveKind parse_objective(const std::string& name);  // throws UserError for an unknown name
Reduction parse_reduction(const std::string& name);      // likewise
const std::string& to_string(ObjectiveKind kind);
const std::string& to_string(Reduction reduction);

// Whether the loss depends on the model without the vector.
bool uses_reference(ObjectiveKind kind);

// Whether the loss is a log sigmoid, which labels may be smoothed in.
bool has_sigmoid(ObjectiveKind kind);

// Whether there is a direction -1 in it.
bool has_two_directions(ObjectiveKind kind);

// Whether direction -1 projects the vector out instead of adding it; such an objective has both
// directions in every step.
bool projects_out(ObjectiveKind kind);

// Whether the loss depends on more of an answer's tokens than the sum of their log-probabilities.
bool uses_complements(ObjectiveKind kind);

// Returns the reduction that the source of the formula, or TRL's form of it, has: the mean for
// kIpo, kSimpo, kSft and kReps, else the sum.
Reduction own_reduction(ObjectiveKind kind);

// Returns log sigmoid(x) without overflow for any argument.
inline double log_sigmoid(double x) {
  return x >= 0 ? -std::log1p(std::exp(-x)) : x - std::log1p(std::exp(x));
}

// The largest log-probability of a token, of which log(1 - pi) is taken: one float32 rounding below
// certainty, where the log-probabilities of float32 passes end.
inline constexpr double kMostLogProb = -1.0 / (1 << 23);

// log(1 - pi) of a token: that another one comes.
struct Complement {
  double value = 0;
  double slope = 0;  // d value / d log pi
};

// Above kMostLogProb it goes on along its tangent: no value and no slope is infinite, and a token
// that is certain still has a slope to leave by.
Complement complement(double log_prob);

struct PairObjective {
  // d beta (x - x_0), or d beta x where the margin has no reference (all that uses none, and
  // kReps): how far the trained answer is ahead.
  double margin = 0;
  double loss = 0;
  AnswerLogProbs slope;             // d loss / d log pi of each answer, the sum over its tokens
  AnswerLogProbs complement_slope;  // d loss / d the sum of each answer's log(1 - pi)
};

// `policy`: under the vector in `direction` d, +1 or -1.  `reference`: without it; not read where
// the objective uses none.  `complements`: sums of log(1 - pi), read by kSuppress alone.
PairObjective pair_objective(const Objective& objective, const AnswerLogProbs& policy,
                             const AnswerLogProbs& reference, const AnswerTokens& tokens,
                             double direction, const AnswerLogProbs& complements = {});

// The same as constants of one formula for all objectives, for a device that computes many pairs at
// once.  With p the log-probabilities of the answers (sums over tokens), c the sums of log(1 - pi),
// and "." the sum over both answers:
//   margin   margin . p + offset
//   loss     sigmoid (-log sigma(z)) + smoothed (-log sigma(-z)) + square (scale margin - shift)^2
//            + plain . p + complement . c,  z = margin - gamma + argument . p
struct PairForm {
  AnswerLogProbs margin;
  double offset = 0;
  AnswerLogProbs argument;
  double sigmoid = 0;
  double smoothed = 0;
  double gamma = 0;
  double square = 0;
  double scale = 0;
  double shift = 0;
  AnswerLogProbs plain;
  AnswerLogProbs complement;
};

// `reference` and `direction` as in pair_objective().
PairForm pair_form(const Objective& objective, const AnswerLogProbs& reference,
                   const AnswerTokens& tokens, double direction);

// Returns log pi of the answers by the objective's reduction: which of them is ahead.
AnswerLogProbs reduced(const Objective& objective, const AnswerLogProbs& policy,
                       const AnswerTokens& tokens);

// Returns the largest loss of a pair whose x - x_0 (x without reference, s in kSft, u in kSuppress,
// s, s_0 and x in kReps) is at most `nats` away from 0.  By the mean, the b of kReps is still
// made of sums: the bound holds where these differ by no more than `nats`.
double largest_loss(const Objective& objective, double nats);

}  // namespace bipo
