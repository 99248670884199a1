// Answer log-probabilities of packed pairs under the steered suffix of the model.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "datasets/tokens/token_pair.hpp"
#include "trainer/intervention/layers.hpp"
#include "trainer/model/decoder/decoder.hpp"
#include "trainer/objective/objective.hpp"
#include "trainer/passes/packing.hpp"

namespace bipo {

// M vectors, each with a part for every one of S blocks: the part is added at the block's site with
// one coefficient per vector and packed token, the same for all parts, then projected out of what
// is there where the vector has a share.
struct Steering {
  SteeredLayers layers = 0;
  at::Tensor coefficients;  // [M, T], of the residual type
  at::Tensor vectors;       // [M, S D], of the residual type
  at::Tensor shares = {};   // [M, T], of project_out(); undefined: nothing is projected out
};

struct PairScores {
  at::Tensor target_log_probs;  // [R], in the autograd graph where the vectors require a gradient
  std::vector<AnswerLogProbs> answers;  // [P], sums over an answer's tokens in order, float64
};

// Returns the numbers of scored tokens of the pair's answers.
AnswerTokens answer_tokens(const TokenPair& pair);

// Returns how a pair is steered in direction `sign` of an objective: the vector is added, or
// projected out (see projects_out()).
SteeringChoice steering_choice(std::int64_t vector, std::int64_t sign, double factor,
                               const SteeredPositions& positions, ObjectiveKind objective);

// Returns the coefficients [M, T] of `vectors` M, on the host: the sign times the factor where a
// row belongs to the vector and is at its positions, else 0.
at::Tensor steering_coefficients(const PackedPairs& packed, std::int64_t vectors,
                                 at::ScalarType type);

// Returns the shares [M, T] of project_out(), on the host: 1 where a row belongs to a vector that
// is projected out of it, else 0; undefined where no row does.
at::Tensor projection_shares(const PackedPairs& packed, std::int64_t vectors, at::ScalarType type);

// Returns 1 where a row is at the positions of its steering, else 0: [T], of the residual type, on
// the decoder's device.  Without a copy to the device where all are.
at::Tensor steered_mask(const PackedAnswers& packed, const Decoder& decoder);

// Runs the blocks that come after layers.blocks_before(), and the head, on the residual stream
// `hidden` [T, D] there; returns the log-probabilities of the targets, [R].  The host does not wait
// for them.  Collective over: tp
at::Tensor target_log_probs(const Decoder& decoder, const PackedPairs& packed,
                            const at::Tensor& hidden, const Steering& steering);

// The same, with the sums over answers.  Collective over: tp
PairScores score_pairs(const Decoder& decoder, const PackedPairs& packed, const at::Tensor& hidden,
                       const Steering& steering);

// Returns [P] the sums of log(1 - pi) over the answers' tokens, from log-probabilities [R].
std::vector<AnswerLogProbs> complement_sums(const PackedPairs& packed,
                                            const at::Tensor& target_log_probs);

// Runs the head on the last block's output [U, D] at the predicting rows.  Collective over: tp
PairScores score_output(const Decoder& decoder, const PackedPairs& packed,
                        const at::Tensor& output);

// Sums log-probabilities [R] of the packed answers' tokens for each answer, in order, in float64.
std::vector<double> sum_answers(const PackedAnswers& packed, const at::Tensor& target_log_probs);

// The output of block `layer` for the packed tokens, of layer -1 their embeddings, without
// gradient. Collective over: tp
at::Tensor run_prefix(const Decoder& decoder, const PackedPairs& packed, std::int64_t layer);

}  // namespace bipo
