#include "trainer/passes/pair_scores.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <utility>

#include "trainer/passes/steering.hpp"

namespace bipo {

namespace {

at::Tensor log_probs_of(const Decoder& decoder, const PackedPairs& packed,
                        const at::Tensor& output) {
  return decoder.next_token_log_probs(output, packed.row_of_target, packed.targets);
}

PairScores with_sums(const PackedPairs& packed, at::Tensor log_probs) {
  PairScores scores;
  scores.target_log_probs = std::move(log_probs);
  const std::vector<double> sums = sum_answers(packed, scores.target_log_probs.detach());
  for (std::size_t i = 0; i + 1 < sums.size(); i += 2) {
    scores.answers.push_back({sums[i], sums[i + 1]});
  }
  return scores;
}

}  // namespace

AnswerTokens answer_tokens(const TokenPair& pair) {
  return {static_cast<double>(scored_count(pair.chosen_scored, pair.chosen.size())),
          static_cast<double>(scored_count(pair.rejected_scored, pair.rejected.size()))};
}

at::Tensor steering_coefficients(const PackedPairs& packed, std::int64_t vectors,
                                 at::ScalarType type) {
  const auto tokens = static_cast<std::int64_t>(packed.steering_of_token.size());
  const at::Tensor coefficients = at::zeros({vectors, tokens}, at::kDouble);
  auto* value = coefficients.mutable_data_ptr<double>();
  for (std::int64_t t = 0; t < tokens; ++t) {
    const SteeringChoice& steering = packed.steering_of_token[static_cast<std::size_t>(t)];
    value[steering.vector * tokens + t] = static_cast<double>(steering.sign) * steering.factor;
  }
  return coefficients.to(type);
}

at::Tensor target_log_probs(const Decoder& decoder, const PackedPairs& packed,
                            const at::Tensor& hidden, const Steering& steering) {
  const ResidualStream steered = run_past_sites(
      {hidden, steering.layer + 1}, {steering.layer},
      [&](const at::Tensor& h, std::int64_t) {
        return steer(h, steering.coefficients, steering.vectors);
      },
      [&](const at::Tensor& h, Range blocks) {
        return decoder.run_blocks(h, blocks, packed.layout);
      });
  return log_probs_of(decoder, packed,
                      decoder.run_to_answers(steered.hidden, steered.next_block, packed.layout));
}

PairScores score_pairs(const Decoder& decoder, const PackedPairs& packed, const at::Tensor& hidden,
                       const Steering& steering) {
  return with_sums(packed, target_log_probs(decoder, packed, hidden, steering));
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
