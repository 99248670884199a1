// What of a data set does not depend on the vector: the prefix's activations and the reference
// log-probabilities, computed in one pass.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "collectives/session.hpp"
#include "datasets/token_pairs.hpp"
#include "trainer/model/graph.hpp"
#include "trainer/objective.hpp"
#include "trainer/packing.hpp"

namespace bipo {

// P pairs, T packed tokens of all pairs, D hidden.
//
// The prefix runs pair by pair and the reference pass on fixed groups of consecutive pairs, so that
// nothing they yield depends on how many replicas share the work, nor on whether activations are
// kept or computed anew.  Replicas take groups in turn and exchange the results.
class ActivationCache {
 public:
  using Progress = std::function<void(std::int64_t done, std::int64_t total)>;

  // `pairs` and `decoder` must outlive the cache.  Activations are kept when they fit into `budget`
  // bytes (the same on every rank), else every use runs the prefix again. Throws EnvironmentError
  // when a reference log-probability is not finite. Collective over: dp x tp
  ActivationCache(const Decoder& decoder, std::int64_t layer, const std::vector<TokenPair>& pairs,
                  std::int64_t group_size, std::uint64_t budget, const Ranks& ranks,
                  const Progress& progress);

  // Bytes that the activations of `pairs` take on each rank.
  static std::uint64_t bytes_needed(const Decoder& decoder, const std::vector<TokenPair>& pairs);

  bool keeps_activations() const { return activations_.defined(); }
  const std::vector<TokenPair>& pairs() const { return pairs_; }
  std::int64_t layer() const { return layer_; }
  const std::vector<std::vector<std::int64_t>>& groups() const { return groups_; }

  // Output of block `layer` [tokens, D] for the packed tokens of the pairs `indices`.
  // Collective over: tp (where activations are not kept)
  at::Tensor activations(const std::vector<std::int64_t>& indices) const;

  // [P] log-probabilities at v = 0.
  const std::vector<AnswerLogProbs>& reference() const { return reference_; }

  // Median over all packed tokens of the root mean square of the residual stream after block
  // `layer`.
  double median_rms() const { return median_rms_; }

 private:
  at::Tensor run_prefix(const std::vector<std::int64_t>& indices) const;
  void run_pass(const Ranks& ranks, const Progress& progress);
  void share(const Ranks& ranks, const at::Tensor& log_probs, const at::Tensor& token_rms);
  Range token_range(const std::vector<std::int64_t>& consecutive_pairs) const;

  const Decoder& decoder_;
  std::int64_t layer_;
  const std::vector<TokenPair>& pairs_;
  std::vector<std::vector<std::int64_t>> groups_;
  std::vector<std::int64_t> first_token_;  // [P + 1] of each pair among all packed tokens
  at::Tensor activations_;                 // [T, D], undefined where they are not kept
  std::vector<AnswerLogProbs> reference_;
  double median_rms_ = 0;
};

}  // namespace bipo
