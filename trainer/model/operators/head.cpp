#include "trainer/model/operators/head.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "collectives/profile.hpp"
#include "trainer/model/operators/cpu_kernels.hpp"
#include "trainer/model/operators/cpu_products.hpp"
#include "trainer/model/operators/operators.hpp"
#include "trainer/model/operators/task_queue.hpp"
#include "trainer/model/sharding/sharding.hpp"

namespace bipo {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Calls work(rows, their biases) for one block of the head's rows after the other.  On a CPU a
// block is small enough that its logits and its part of the head stay in the last-level cache, on a
// device large enough to fill it.
template <class Work>
void for_each_block(const HeadShard& shard, const Work& work) {
  const at::Tensor& head = shard.rows;
  constexpr std::int64_t kCachedElements = 1 << 21;
  constexpr std::int64_t kDeviceBlock = 1 << 15;
  const std::int64_t block =
      head.is_cpu() ? std::max<std::int64_t>(1024, kCachedElements / head.size(1)) : kDeviceBlock;
  for (std::int64_t begin = 0; begin < head.size(0); begin += block) {
    const std::int64_t count = std::min(block, head.size(0) - begin);
    work(head.narrow(0, begin, count),
         shard.bias.defined() ? shard.bias.narrow(0, begin, count) : at::Tensor());
  }
}

// Returns x y in x's type: a bfloat16 product on CUDA accumulates into and returns float32.
at::Tensor head_product(const at::Tensor& x, const at::Tensor& y) {
  if (x.scalar_type() == y.scalar_type()) {
    return at::mm(x, y);
  }
  return at::mm(x.to(y.scalar_type()), y, x.scalar_type());
}

void apply_cap(const at::Tensor& logits, double cap) {
  if (cap != 0) {
    logits.div_(cap).tanh_().mul_(cap);
  }
}

// Returns d capped / d x, given the capped logits; undefined where there is no cap.
at::Tensor slopes_of_cap(const at::Tensor& capped, double cap) {
  return cap == 0 ? at::Tensor() : 1 - (capped / cap).square_();
}

at::Tensor capped_logits(const at::Tensor& x, const at::Tensor& rows, const at::Tensor& bias,
                         double cap) {
  const at::Tensor logits =
      runs_in_tiles(x, rows) ? tiled_linear(x, rows, at::Tensor()) : head_product(x, rows.t());
  if (bias.defined()) {
    logits.add_(bias);
  }
  apply_cap(logits, cap);
  return logits;
}

// The softmax over the blocks of the vocabulary so far.
struct OnlineSoftmax {
  at::Tensor largest;  // [U]
  at::Tensor sum;      // [U] of exp(logit - largest)
  at::Tensor mean;     // [U, D] sum of exp(logit - largest) times the head's row; may be undefined

  // Turns `logits` [U, n] of the next block into exponentials, and scales the mean to match.
  void add(const at::Tensor& logits) {
    const at::Tensor shrink = at::empty_like(largest);
    if (runs_fused(logits)) {
      const std::int64_t columns = logits.size(1);
      constexpr std::int64_t kGrain = 4;
      share_row_ranges(logits.size(0), kGrain, [&](std::int64_t begin, std::int64_t end) {
        kernels::online_softmax_block(
            logits.mutable_data_ptr<float>() + begin * columns, end - begin, columns,
            largest.mutable_data_ptr<float>() + begin, sum.mutable_data_ptr<float>() + begin,
            shrink.mutable_data_ptr<float>() + begin);
      });
    } else {
      const at::Tensor now = at::maximum(largest, logits.amax(1));
      shrink.copy_((largest - now).exp_());
      logits.sub_(now.unsqueeze(1)).exp_();
      sum.mul_(shrink).add_(logits.sum(1));
      largest.copy_(now);
    }
    if (mean.defined()) {
      mean.mul_(shrink.unsqueeze(1));
    }
  }
};

struct TokenLogProbs : torch::autograd::Function<TokenLogProbs> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& h, const HeadShard& head,
                            const at::Tensor& row_of_target, const at::Tensor& targets, bool keep) {
    const WorkTimer timer(Work::kHead);
    OnlineSoftmax softmax{
        at::full({h.size(0)}, -std::numeric_limits<double>::infinity(), h.options()),
        at::zeros({h.size(0)}, h.options()), keep ? at::zeros_like(h) : at::Tensor()};
    for_each_block(head, [&](const at::Tensor& rows, const at::Tensor& bias) {
      const at::Tensor logits = capped_logits(h, rows, bias, head.soft_cap);
      const at::Tensor slopes = keep ? slopes_of_cap(logits, head.soft_cap) : at::Tensor();
      softmax.add(logits);
      if (keep) {
        add_product(softmax.mean, slopes.defined() ? logits.mul_(slopes) : logits, rows);
      }
    });

    const at::Tensor largest = softmax.largest.clone();
    head.tp.all_reduce(largest, ReduceOp::kMax);
    const at::Tensor shrink = (softmax.largest - largest).exp_();
    const at::Tensor sum = softmax.sum * shrink;
    head.tp.all_reduce(sum, ReduceOp::kSum);

    const Range local = split_range(head.vocabulary, head.tp.size(), head.tp.rank());
    const at::Tensor is_local =
        targets.ge(local.begin).logical_and_(targets.lt(local.end)).to(h.scalar_type());
    const at::Tensor local_target =
        at::where(is_local.ne(0), targets - local.begin, at::zeros_like(targets));
    const at::Tensor h_of_target =
        h.to(head.rows.scalar_type()).to(h.scalar_type()).index_select(0, row_of_target);
    const at::Tensor product = (h_of_target * target_rows(head.rows, local_target, h)).sum(1);
    const at::Tensor logit =
        (head.bias.defined() ? product + head.bias.index_select(0, local_target) : product) *
        is_local;
    head.tp.all_reduce(logit, ReduceOp::kSum);
    apply_cap(logit, head.soft_cap);

    if (keep) {
      const at::Tensor slope = slopes_of_cap(logit, head.soft_cap);
      context->save_for_backward({softmax.mean.mul_((shrink / sum).unsqueeze(1)), head.rows,
                                  row_of_target, local_target,
                                  slope.defined() ? is_local * slope : is_local});
    }
    return logit - (largest + sum.log()).index_select(0, row_of_target);
  }

  // d logp_r / d h_u = head[target_r] - softmax-weighted mean of the head's rows, each times the
  // slope of its cap.
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const WorkTimer timer(Work::kHead);
    const auto saved = context->get_saved_variables();
    const at::Tensor& mean = saved[0];
    const at::Tensor& row_of_target = saved[2];
    const at::Tensor& gradient = gradients[0];
    const at::Tensor of_row =
        add_rows(at::zeros({mean.size(0)}, mean.options()), row_of_target, gradient);
    const at::Tensor at_targets =
        target_rows(saved[1], saved[3], mean) * (gradient * saved[4]).unsqueeze(1);
    const at::Tensor d_h = add_rows(mean * of_row.neg().unsqueeze(1), row_of_target, at_targets);
    return {d_h, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }

  // Adds the rows of `terms` [R, ...] to those of `sums` [U, ...] that `row_of_term` names.  On a
  // GPU index_add_() adds in no order; index_put_() sorts the rows there.  Its operator is called
  // without the check of their range, which takes some kernels of its own.
  static at::Tensor add_rows(at::Tensor sums, const at::Tensor& row_of_term,
                             const at::Tensor& terms) {
    if (sums.is_cpu()) {
      return sums.index_add_(0, row_of_term, terms);
    }
    c10::List<std::optional<at::Tensor>> rows;
    rows.push_back(row_of_term);
    return at::_index_put_impl_(sums, rows, terms, /*accumulate=*/true, /*unsafe=*/true);
  }

  static void add_product(const at::Tensor& sum, const at::Tensor& x, const at::Tensor& y) {
    if (runs_in_tiles(x, y)) {
      add_tiled_product(x, y, sum, /*overwrite=*/false);
    } else if (x.scalar_type() == y.scalar_type()) {
      sum.addmm_(x, y);
    } else {
      sum.add_(head_product(x, y));
    }
  }

  // Returns the head's rows [R, D] of the targets, in the type of `like`.
  static at::Tensor target_rows(const at::Tensor& head, const at::Tensor& local_target,
                                const at::Tensor& like) {
    return head.index_select(0, local_target).to(like.scalar_type());
  }
};

// log sum exp over the blocks of the vocabulary so far, in float64.
struct Normalizer {
  explicit Normalizer(const at::Tensor& h)
      : largest(at::full({h.size(0)}, -std::numeric_limits<double>::infinity(),
                         h.options().dtype(at::kDouble))),
        sum(at::zeros_like(largest)) {}

  // Adds `logits` [T, n], float64.  Returns exp(logits - largest); sets `shrink` [T], the factor
  // for sums of earlier such exponentials.
  at::Tensor add(const at::Tensor& logits, at::Tensor& shrink) {
    const at::Tensor now = at::maximum(largest, logits.amax(1));
    shrink = (largest - now).exp_();
    at::Tensor exponentials = (logits - now.unsqueeze(1)).exp_();
    sum.mul_(shrink).add_(exponentials.sum(1));
    largest = now;
    return exponentials;
  }

  // Combines all ranks' blocks; returns the shrink [T].  Collective over: tp
  at::Tensor combine(Communicator& tp) {
    const at::Tensor of_all_ranks = largest.clone();
    tp.all_reduce(of_all_ranks, ReduceOp::kMax);
    at::Tensor shrink = (largest - of_all_ranks).exp_();
    sum.mul_(shrink);
    tp.all_reduce(sum, ReduceOp::kSum);
    largest = of_all_ranks;
    return shrink;
  }

  at::Tensor log() const { return largest + sum.log(); }

  at::Tensor largest;  // [T]
  at::Tensor sum;      // [T] of exp(logit - largest)
};

}  // namespace

at::Tensor token_log_probs(const at::Tensor& h, const HeadShard& head,
                           const at::Tensor& row_of_target, const at::Tensor& targets) {
  const bool keep = at::GradMode::is_enabled() && h.requires_grad();
  return TokenLogProbs::apply(h, head, row_of_target, targets, keep);
}

at::Tensor token_logits(const at::Tensor& h, const HeadShard& head) {
  const WorkTimer timer(Work::kHead);
  const at::Tensor logits = capped_logits(h, head.rows, head.bias, head.soft_cap);
  const int ranks = head.tp.size();
  if (ranks == 1) {
    return logits;
  }
  // Ranks exchange parts of one width, that of the first rank, whose part is the longest.
  const std::int64_t width = split_range(head.vocabulary, ranks, 0).size();
  const at::Tensor gathered =
      head.tp.all_gather(at::constant_pad_nd(logits, {0, width - logits.size(1)}).contiguous());
  std::vector<at::Tensor> parts;
  for (int rank = 0; rank < ranks; ++rank) {
    parts.push_back(gathered[rank].narrow(1, 0, split_range(head.vocabulary, ranks, rank).size()));
  }
  return at::cat(parts, 1);
}

// sum_v p_v (log p_v - log q_v) = sum_v p_v (a_v - b_v) - (log sum exp a - log sum exp b) for the
// logits a and b.
at::Tensor token_divergences(const at::Tensor& h, const std::vector<at::Tensor>& others,
                             const HeadShard& head) {
  const WorkTimer timer(Work::kHead);
  const at::NoGradGuard no_grad;
  Normalizer own(h);
  std::vector<Normalizer> theirs;
  const auto count = static_cast<std::int64_t>(others.size());
  const at::Tensor weighted = at::zeros({count, h.size(0)}, own.sum.options());
  for (const at::Tensor& other : others) {
    theirs.emplace_back(other);
  }
  for_each_block(head, [&](const at::Tensor& rows, const at::Tensor& bias) {
    const at::Tensor logits = capped_logits(h, rows, bias, head.soft_cap).to(at::kDouble);
    at::Tensor shrink;
    const at::Tensor exponentials = own.add(logits, shrink);
    for (std::int64_t s = 0; s < count; ++s) {
      const auto index = static_cast<std::size_t>(s);
      const at::Tensor other =
          capped_logits(others[index], rows, bias, head.soft_cap).to(at::kDouble);
      weighted[s].mul_(shrink).add_((exponentials * (logits - other)).sum(1));
      at::Tensor unused;
      theirs[index].add(other, unused);
    }
  });
  weighted.mul_(own.combine(head.tp));
  head.tp.all_reduce(weighted, ReduceOp::kSum);
  for (std::int64_t s = 0; s < count; ++s) {
    Normalizer& other = theirs[static_cast<std::size_t>(s)];
    other.combine(head.tp);
    // Rounding may leave a value slightly below 0, which is cut off.
    weighted[s].div_(own.sum).sub_(own.log() - other.log()).clamp_min_(0);
  }
  return weighted;
}

}  // namespace bipo
