#include "trainer/model/operators/divergence.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <limits>

#include "collectives/profile.hpp"
#include "trainer/model/operators/head_blocks.hpp"

namespace bipo {
namespace {

// log sum exp over the blocks of the vocabulary seen so far.
struct Normalizer {
  explicit Normalizer(const at::Tensor& h)
      : largest(at::full({h.size(0)}, -std::numeric_limits<double>::infinity(),
                         h.options().dtype(at::kDouble))),
        sum(at::zeros_like(largest)) {}

  // Takes in `logits` [T, n], float64.  Returns exp(logits - largest); `shrink` [T] is what sums of
  // earlier such exponentials are to be multiplied by.
  at::Tensor add(const at::Tensor& logits, at::Tensor& shrink) {
    const at::Tensor now = at::maximum(largest, logits.amax(1));
    shrink = (largest - now).exp_();
    at::Tensor exponentials = (logits - now.unsqueeze(1)).exp_();
    sum.mul_(shrink).add_(exponentials.sum(1));
    largest = now;
    return exponentials;
  }

  // Over all ranks' blocks; returns the shrink [T].  Collective over: tp
  at::Tensor combine(Communicator& tp) {
    const at::Tensor of_all = largest.clone();
    tp.all_reduce(of_all, ReduceOp::kMax);
    at::Tensor shrink = (largest - of_all).exp_();
    sum.mul_(shrink);
    tp.all_reduce(sum, ReduceOp::kSum);
    largest = of_all;
    return shrink;
  }

  at::Tensor log() const { return largest + sum.log(); }

  at::Tensor largest;  // [T]
  at::Tensor sum;      // [T] of exp(logit - largest)
};

}  // namespace

// sum_v p_v (log p_v - log q_v) = sum_v p_v (a_v - b_v) - (log sum exp a - log sum exp b) for the
// logits a and b.
at::Tensor token_divergences(const at::Tensor& h, const std::vector<at::Tensor>& others,
                             const at::Tensor& head, double soft_cap, Communicator& tp) {
  const WorkTimer timer(Work::kHead);
  const at::NoGradGuard no_grad;
  const SoftCap cap{soft_cap};
  Normalizer own(h);
  std::vector<Normalizer> theirs;
  const auto count = static_cast<std::int64_t>(others.size());
  const at::Tensor weighted = at::zeros({count, h.size(0)}, own.sum.options());
  for (const at::Tensor& other : others) {
    theirs.emplace_back(other);
  }
  const std::int64_t block = head_block_size(head);
  for (std::int64_t begin = 0; begin < head.size(0); begin += block) {
    const at::Tensor rows = head.narrow(0, begin, std::min(block, head.size(0) - begin));
    const auto logits_of = [&](const at::Tensor& x) {
      const at::Tensor logits = head_product(x, rows.t());
      cap.apply(logits);
      return logits.to(at::kDouble);
    };
    const at::Tensor logits = logits_of(h);
    at::Tensor shrink;
    const at::Tensor exponentials = own.add(logits, shrink);
    for (std::int64_t s = 0; s < count; ++s) {
      const auto index = static_cast<std::size_t>(s);
      const at::Tensor other = logits_of(others[index]);
      weighted[s].mul_(shrink).add_((exponentials * (logits - other)).sum(1));
      at::Tensor unused;
      theirs[index].add(other, unused);
    }
  }
  weighted.mul_(own.combine(tp));
  tp.all_reduce(weighted, ReduceOp::kSum);
  for (std::int64_t s = 0; s < count; ++s) {
    Normalizer& other = theirs[static_cast<std::size_t>(s)];
    other.combine(tp);
    // Not below 0 by more than rounding, which is cut off.
    weighted[s].div_(own.sum).sub_(own.log() - other.log()).clamp_min_(0);
  }
  return weighted;
}

}  // namespace bipo
