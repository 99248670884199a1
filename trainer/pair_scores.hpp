// Answer log-probabilities of packed pairs under the steered suffix of the model.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "trainer/model/graph.hpp"
#include "trainer/objective.hpp"
#include "trainer/packing.hpp"

namespace bipo {

// A vector at a site: added to the output of block `layer` with one coefficient per packed token.
struct Steering {
  std::int64_t layer = 0;
  at::Tensor coefficients;  // [T], of the residual type
  at::Tensor vector;        // [D], of the residual type
};

struct PairScores {
  at::Tensor row_log_probs;  // [R], part of the autograd graph where the vector asks for a gradient
  std::vector<AnswerLogProbs> answers;  // [P], sums over an answer's rows in row order, float64
};

// Runs blocks layer+1.. and the head on `hidden` [T, D], the output of block `layer`.
// Collective over: tp
PairScores score_pairs(const Decoder& decoder, const PackedPairs& packed, const at::Tensor& hidden,
                       const Steering& steering);

// The output of block `layer` for the packed tokens, without gradient.  Collective over: tp
at::Tensor run_prefix(const Decoder& decoder, const PackedPairs& packed, std::int64_t layer);

}  // namespace bipo
