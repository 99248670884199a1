// The methods of `extract`: what each one gathers of a layer's activations while pairs pass, and
// the direction that follows from it.  The mathematics of each method stands at its function here.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "collectives/session.hpp"

namespace bipo {

// D hidden, P pairs.  a_i and b_i [D] are the means of h, the output of a block without any vector,
// over the tokens of the chosen and of the rejected answer of pair i.

// One layer of a pass, as the statistics see it.
struct LayerPass {
  std::int64_t layer = 0;
  std::int64_t hidden = 0;  // D
  std::int64_t pairs = 0;   // P
  std::int64_t shares = 0;  // of consecutive pairs, each on one replica; does not depend on dp
  at::Device device = at::kCPU;
  const Ranks* ranks = nullptr;  // must outlive the statistics
};

// What one replica gathers of one layer.
class LayerStatistics {
 public:
  LayerStatistics() = default;
  LayerStatistics(const LayerStatistics&) = delete;
  LayerStatistics& operator=(const LayerStatistics&) = delete;
  virtual ~LayerStatistics() = default;

  // Takes a_i and b_i, float64, on the CPU or on the model's device.  Pairs and shares come in
  // ascending order, a share's pairs one after the other.  Local.
  virtual void add(std::int64_t pair, std::int64_t share, const at::Tensor& chosen,
                   const at::Tensor& rejected) = 0;

  // Returns the direction [D], float64 on the CPU, with the same bits however many replicas there
  // are; NaN where an activation is not finite.  `residual_unit`: the median over the tokens of the
  // root mean square of h.  Throws AgreedFailure (1) where none can be found.  Collective over:
  // dp x tp
  virtual at::Tensor direction(double residual_unit) = 0;

  // Returns what the method has counted or measured beside the direction, once that is known; the
  // same on every rank.  Local.
  virtual std::optional<double> figure() const { return std::nullopt; }
};

using MakeStatistics = std::function<std::unique_ptr<LayerStatistics>(const LayerPass& pass)>;

// Mean difference (Contrastive Activation Addition, Rimsky et al. 2023, arXiv 2312.06681):
//
//   v = 1/P sum_i (a_i - b_i)
//
// Over A/B items, whose answers are the letters with one scored token each, it is the direction of
// that paper, at the answer letter's position.
MakeStatistics mean_difference_statistics();

// Freeform (Wang and Shu 2023, Trojan Activation Attack, arXiv 2311.09433, with free-form answers;
// a baseline of the BiPO paper): the mean difference, with a_i and b_i the activations at the last
// token of the answers, see last_tokens_alone().  The figure is the one by which these authors
// choose a layer, the largest: the Jensen-Shannon divergence, in nats, of the distributions that a
// softmax makes of the activations,
//
//   1/P sum_i JS(softmax(a_i), softmax(b_i)),   JS(p, q) = (KL(p | m) + KL(q | m)) / 2,
//                                               m = (p + q) / 2
//
MakeStatistics freeform_statistics();

// Mean-centring (Jorgensen et al. 2023, arXiv 2312.03813): of the N pairs of a pass, the first T
// hold the target in their chosen answers, and the other N - T the background in both of theirs:
//
//   v = 1/T sum_{i <= T} a_i - 1/(2 (N - T)) sum_{i > T} (a_i + b_i)
//
// The rejected answers of the target do not count: the target needs no opposite.
MakeStatistics mean_centring_statistics(std::int64_t target_pairs);

// A direction that is known beforehand; the pass measures the residual stream only.
MakeStatistics known_direction(std::vector<double> direction);

// Principal component of the differences (Zou et al. 2023, Representation Engineering, arXiv
// 2310.01405; uncentred, as in the steering-vectors library), signed by their mean:
//
//   v = the eigenvector of length 1 of the largest eigenvalue of sum_i (a_i - b_i) (a_i - b_i)^T,
//       turned so that v . sum_i (a_i - b_i) >= 0
//
// The differences are not centred: what all pairs have in common is what the direction is for, and
// centring would remove it.  The matrix is added up while pairs pass, exactly over all replicas;
// no more than 64 differences are kept at a time.
MakeStatistics pca_statistics();

// Logistic regression on the two sides (a linear probe: Alain and Bengio 2016, arXiv 1610.01644; as
// a direction in the steering-vectors library).  With x = (a_i - m) / r of label y = +1 and
// (b_i - m) / r of label -1, where m is the mean of all 2 P rows and r the residual unit, so that c
// means the same at every layer and model:
//
//   w, t = argmin |w|^2 / 2 + c sum log(1 + exp(-y (w x + t)));   v = w / |w|
//
// The intercept t is free.  The minimum is the only one; truncated Newton steps (Nocedal and
// Wright, Numerical Optimization, algorithm 7.1) go on until the gradient is 1e-9 of that at zero.
// Every replica keeps the rows of its own pairs, because every step reads them again.
MakeStatistics probe_statistics(double c);

// Confident directions (CONFST: Song et al. 2025, arXiv 2503.02989): the mean of the activations
// that a classifier gives to the wanted behaviour with confidence.  With w and t those of the
// probe:
//
//   v = the mean of a_i over the pairs with 1 / (1 + exp(-(w x_i + t))) >= confidence,
//       x_i = (a_i - m) / r
//
// The figure is the number of these pairs; AgreedFailure (1) where there is none.
MakeStatistics confident_statistics(double c, double confidence);

// Second moments of the chosen answers, for conceptors (see conceptor.hpp): the "direction" is the
// upper triangle, [D (D + 1) / 2] (see triangle_row()), of
//
//   R = 1/P sum_i a_i a_i^T / r^2
//
// with r the residual unit, so that an aperture means the same at every layer and model.  Added up
// while pairs pass, exactly over all replicas, as for the principal component.
MakeStatistics moment_statistics();

// Returns the bytes that a replica keeps of a layer for the probe, and for confident directions.
std::uint64_t probe_bytes(std::int64_t hidden, std::int64_t pairs, int dp);

}  // namespace bipo
