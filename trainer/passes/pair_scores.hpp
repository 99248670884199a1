// Answer log-probabilities of packed pairs under the steered suffix of the model.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "collectives/session.hpp"
#include "trainer/model/decoder/decoder.hpp"
#include "trainer/passes/objective.hpp"
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
  at::Tensor target_log_probs;  // [R], in the autograd graph where the vectors ask for a gradient
  std::vector<AnswerLogProbs> answers;  // [P], sums over an answer's tokens in order, float64
};

// Runs blocks layer+1.. and the head on `hidden` [T, D], the output of block `layer`.
// Collective over: tp
PairScores score_pairs(const Decoder& decoder, const PackedPairs& packed, const at::Tensor& hidden,
                       const Steering& steering);

// The rest of that, from the last block's output [U, D] at the predicting rows. Collective over: tp
PairScores score_output(const Decoder& decoder, const PackedPairs& packed,
                        const at::Tensor& output);

// The output of block `layer` for the packed tokens, without gradient.  Collective over: tp
at::Tensor run_prefix(const Decoder& decoder, const PackedPairs& packed, std::int64_t layer);

// A data set cut into groups that are scored together.
struct PairGroups {
  const std::vector<TokenPair>& pairs;
  const std::vector<std::vector<std::int64_t>>& groups;  // indices of pairs; each pair once
  // Output of the steered block for packed pairs.
  std::function<at::Tensor(const PackedPairs&)> hidden;
};

// Called with groups done and their number.
using Progress = std::function<void(std::int64_t done, std::int64_t total)>;

// What replicas found of different items, each element filled by one of them and 0 on the others:
// all of it on every rank, to the bit. Collective over: dp x tp
std::vector<double> gather_values(const std::vector<double>& values, at::Device device,
                                  const Ranks& ranks);

// The same of {chosen, rejected} per pair. Collective over: dp x tp
std::vector<AnswerLogProbs> gather_answers(const std::vector<double>& values, at::Device device,
                                           const Ranks& ranks);

// Log-probabilities of all pairs with `coefficient` times `vector` [D] added after block `layer`;
// the same on every rank.  Groups are dealt to replicas in turn. Collective over: dp x tp
std::vector<AnswerLogProbs> score_groups(const Decoder& decoder, const PairGroups& set,
                                         std::int64_t layer, const at::Tensor& vector,
                                         double coefficient, const Ranks& ranks,
                                         const Progress& progress);

}  // namespace bipo
