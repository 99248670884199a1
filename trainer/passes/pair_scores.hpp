// Answer log-probabilities of packed pairs under the steered suffix of the model.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "datasets/tokens/token_pair.hpp"
#include "trainer/model/decoder/decoder.hpp"
#include "trainer/objective/objective.hpp"
#include "trainer/passes/packing.hpp"

namespace bipo {

// M vectors at one site: added to the output of block `layer` with one coefficient per vector and
// packed token.
struct Steering {
  std::int64_t layer = 0;
  at::Tensor coefficients;  // [M, T], of the residual type
  at::Tensor vectors;       // [M, D], of the residual type
};

struct PairScores {
  at::Tensor target_log_probs;  // [R], in the autograd graph where the vectors require a gradient
  std::vector<AnswerLogProbs> answers;  // [P], sums over an answer's tokens in order, float64
};

// Returns the numbers of scored tokens of the pair's answers.
AnswerTokens answer_tokens(const TokenPair& pair);

// Returns the coefficients [M, T] of `vectors` M, on the host: the sign times the factor where a
// row belongs to the vector, else 0.
at::Tensor steering_coefficients(const PackedPairs& packed, std::int64_t vectors,
                                 at::ScalarType type);

// Runs blocks layer+1.. and the head on `hidden` [T, D], the output of block `layer`; returns the
// log-probabilities of the targets, [R].  The host does not wait for them.  Collective over: tp
at::Tensor target_log_probs(const Decoder& decoder, const PackedPairs& packed,
                            const at::Tensor& hidden, const Steering& steering);

// The same, with the sums over answers.  Collective over: tp
PairScores score_pairs(const Decoder& decoder, const PackedPairs& packed, const at::Tensor& hidden,
                       const Steering& steering);

// Runs the head on the last block's output [U, D] at the predicting rows.  Collective over: tp
PairScores score_output(const Decoder& decoder, const PackedPairs& packed,
                        const at::Tensor& output);

// Sums log-probabilities [R] of the packed answers' tokens for each answer, in order, in float64.
std::vector<double> sum_answers(const PackedAnswers& packed, const at::Tensor& target_log_probs);

// The output of block `layer` for the packed tokens, without gradient.  Collective over: tp
at::Tensor run_prefix(const Decoder& decoder, const PackedPairs& packed, std::int64_t layer);

}  // namespace bipo
