#include "trainer/passes/pair_scores.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <utility>

#include "trainer/passes/steering.hpp"

namespace bipo {

namespace {

at::Tensor log_probs_of(const Decoder& decoder, const PackedPairs& packed,
                        const at::Tensor& output) {
  return decoder.next_token_log_probs(output, packed.row_of_target, packed.targets);
}

// `sums`: chosen, rejected, chosen, ...
std::vector<AnswerLogProbs> by_pairs(const std::vector<double>& sums) {
  std::vector<AnswerLogProbs> pairs;
  for (std::size_t i = 0; i + 1 < sums.size(); i += 2) {
    pairs.push_back({sums[i], sums[i + 1]});
  }
  return pairs;
}

// Returns the vectors' parts for the steered block `part`, counted from 0: [M, D].
at::Tensor part_of(const Steering& steering, std::int64_t part) {
  const std::int64_t parts = steering.layers.count();
  const std::int64_t hidden = steering.vectors.size(1) / parts;
  return parts == 1 ? steering.vectors : steering.vectors.narrow(1, part * hidden, hidden);
}

PairScores with_sums(const PackedPairs& packed, at::Tensor log_probs) {
  PairScores scores;
  scores.target_log_probs = std::move(log_probs);
  scores.answers = by_pairs(sum_answers(packed, scores.target_log_probs.detach()));
  return scores;
}

}  // namespace

AnswerTokens answer_tokens(const TokenPair& pair) {
  return {static_cast<double>(scored_count(pair.chosen_scored, pair.chosen.size())),
          static_cast<double>(scored_count(pair.rejected_scored, pair.rejected.size()))};
}

SteeringChoice steering_choice(std::int64_t vector, std::int64_t sign, double factor,
                               const SteeredPositions& positions, ObjectiveKind objective) {
  return sign < 0 && projects_out(objective)
             ? SteeringChoice{vector, 0, 1, positions, /*projects_out=*/true}
             : SteeringChoice{vector, sign, factor, positions};
}

at::Tensor steering_coefficients(const PackedPairs& packed, std::int64_t vectors,
                                 at::ScalarType type) {
  const auto tokens = static_cast<std::int64_t>(packed.steering_of_token.size());
  const at::Tensor coefficients = at::zeros({vectors, tokens}, at::kDouble);
  auto* value = coefficients.mutable_data_ptr<double>();
  for (std::int64_t t = 0; t < tokens; ++t) {
    const SteeringChoice& steering = packed.steering_of_token[static_cast<std::size_t>(t)];
    if (!packed.is_steered[static_cast<std::size_t>(t)]) {
      continue;
    }
    value[steering.vector * tokens + t] = static_cast<double>(steering.sign) * steering.factor;
  }
  return coefficients.to(type);
}

at::Tensor projection_shares(const PackedPairs& packed, std::int64_t vectors, at::ScalarType type) {
  const std::vector<SteeringChoice>& steering = packed.steering_of_token;
  if (std::none_of(steering.begin(), steering.end(),
                   [](const SteeringChoice& choice) { return choice.projects_out; })) {
    return {};
  }
  const auto tokens = static_cast<std::int64_t>(steering.size());
  const at::Tensor shares = at::zeros({vectors, tokens}, at::kDouble);
  auto* share = shares.mutable_data_ptr<double>();
  for (std::int64_t t = 0; t < tokens; ++t) {
    const auto row = static_cast<std::size_t>(t);
    if (steering[row].projects_out && packed.is_steered[row]) {
      share[steering[row].vector * tokens + t] = 1;
    }
  }
  return shares.to(type);
}

at::Tensor steered_mask(const PackedAnswers& packed, const Decoder& decoder) {
  std::vector<std::int64_t> rows;
  for (std::size_t t = 0; t < packed.is_steered.size(); ++t) {
    if (packed.is_steered[t]) {
      rows.push_back(static_cast<std::int64_t>(t));
    }
  }
  if (static_cast<std::int64_t>(rows.size()) == packed.tokens()) {
    return at::ones({packed.tokens()}, residual_options(decoder));
  }
  return at::zeros({packed.tokens()}, residual_options(decoder))
      .index_fill_(0, at::tensor(rows, at::kLong).to(decoder.device()), 1);
}

at::Tensor target_log_probs(const Decoder& decoder, const PackedPairs& packed,
                            const at::Tensor& hidden, const Steering& steering) {
  std::int64_t part = 0;
  const ResidualStream steered = run_past_sites(
      {hidden, steering.layers.blocks_before()}, steering.layers.places(),
      [&](const at::Tensor& h, const SteeredPlace&) {
        const at::Tensor vectors = part_of(steering, part++);
        const at::Tensor added = steer(h, steering.coefficients, vectors);
        return steering.shares.defined() ? project_out(added, steering.shares, vectors) : added;
      },
      [&](const at::Tensor& h, Range blocks, const ChangeMlpOutput& change) {
        return decoder.run_blocks(h, blocks, packed.layout, change);
      });
  return log_probs_of(decoder, packed,
                      decoder.run_to_answers(steered.hidden, steered.next_block, packed.layout));
}

PairScores score_pairs(const Decoder& decoder, const PackedPairs& packed, const at::Tensor& hidden,
                       const Steering& steering) {
  return with_sums(packed, target_log_probs(decoder, packed, hidden, steering));
}

std::vector<AnswerLogProbs> complement_sums(const PackedPairs& packed,
                                            const at::Tensor& target_log_probs) {
  const at::Tensor complements =
      target_log_probs.to(at::kCPU, at::kDouble, /*non_blocking=*/false, /*copy=*/true);
  auto* value = complements.mutable_data_ptr<double>();
  for (std::int64_t r = 0; r < complements.numel(); ++r) {
    value[r] = complement(value[r]).value;
  }
  return by_pairs(sum_answers(packed, complements));
}

PairScores score_output(const Decoder& decoder, const PackedPairs& packed,
                        const at::Tensor& output) {
  return with_sums(packed, log_probs_of(decoder, packed, output));
}

std::vector<double> sum_answers(const PackedAnswers& packed, const at::Tensor& target_log_probs) {
  const at::Tensor on_host = target_log_probs.to(at::kCPU, at::kDouble);
  const double* log_prob = on_host.const_data_ptr<double>();
  std::vector<double> sums(static_cast<std::size_t>(packed.answers), 0.0);
  for (std::size_t r = 0; r < packed.answer_of_target.size(); ++r) {
    sums[static_cast<std::size_t>(packed.answer_of_target[r])] += log_prob[r];
  }
  return sums;
}

at::Tensor run_prefix(const Decoder& decoder, const PackedPairs& packed, std::int64_t layer) {
  const at::NoGradGuard no_grad;
  return decoder.run_blocks(decoder.embed(packed.ids), {0, layer + 1}, packed.layout);
}

}  // namespace bipo
