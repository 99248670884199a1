#include "trainer/model/operators/log_probs.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "collectives/profile.hpp"
#include "trainer/model/operators/cpu_kernels.hpp"
#include "trainer/model/operators/head_blocks.hpp"
#include "trainer/model/operators/operators.hpp"
#include "trainer/model/sharding/sharding.hpp"

namespace bipo {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Softmax over the blocks of the vocabulary seen so far.
struct OnlineSoftmax {
  at::Tensor largest;  // [U]
  at::Tensor sum;      // [U] of exp(logit - largest)
  at::Tensor mean;     // [U, D] sum of exp(logit - largest) times the head's row, where kept

  // Turns `logits` [U, n] of the next block into exponentials, and scales the mean accordingly.
  void add(const at::Tensor& logits) {
    const at::Tensor shrink = at::empty_like(largest);
    if (runs_fused(logits)) {
      const std::int64_t columns = logits.size(1);
      constexpr std::int64_t kGrain = 4;
      at::parallel_for(0, logits.size(0), kGrain, [&](std::int64_t begin, std::int64_t end) {
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
  static at::Tensor forward(AutogradContext* context, const at::Tensor& h, const at::Tensor& head,
                            const at::Tensor& row_of_target, const at::Tensor& targets,
                            Range vocabulary, SoftCap soft_cap, Communicator* tp, bool keep) {
    const WorkTimer timer(Work::kHead);
    OnlineSoftmax softmax{
        at::full({h.size(0)}, -std::numeric_limits<double>::infinity(), h.options()),
        at::zeros({h.size(0)}, h.options()), keep ? at::zeros_like(h) : at::Tensor()};
    const std::int64_t block = head_block_size(head);
    for (std::int64_t begin = 0; begin < head.size(0); begin += block) {
      const at::Tensor rows = head.narrow(0, begin, std::min(block, head.size(0) - begin));
      const at::Tensor logits = head_product(h, rows.t());
      soft_cap.apply(logits);
      const at::Tensor slopes = keep ? soft_cap.slopes(logits) : at::Tensor();
      softmax.add(logits);
      if (keep) {
        add_product(softmax.mean, slopes.defined() ? logits.mul_(slopes) : logits, rows);
      }
    }

    const at::Tensor largest = softmax.largest.clone();
    tp->all_reduce(largest, ReduceOp::kMax);
    const at::Tensor shrink = (softmax.largest - largest).exp_();
    const at::Tensor sum = softmax.sum * shrink;
    tp->all_reduce(sum, ReduceOp::kSum);

    const at::Tensor is_local =
        targets.ge(vocabulary.begin).logical_and_(targets.lt(vocabulary.end)).to(h.scalar_type());
    const at::Tensor local_target =
        at::where(is_local.ne(0), targets - vocabulary.begin, at::zeros_like(targets));
    const at::Tensor asked =
        h.to(head.scalar_type()).to(h.scalar_type()).index_select(0, row_of_target);
    const at::Tensor logit = (asked * target_rows(head, local_target, h)).sum(1) * is_local;
    tp->all_reduce(logit, ReduceOp::kSum);
    soft_cap.apply(logit);

    if (keep) {
      const at::Tensor slope = soft_cap.slopes(logit);
      context->save_for_backward({softmax.mean.mul_((shrink / sum).unsqueeze(1)), head,
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
        at::zeros({mean.size(0)}, mean.options()).index_add_(0, row_of_target, gradient);
    const at::Tensor at_targets =
        target_rows(saved[1], saved[3], mean) * (gradient * saved[4]).unsqueeze(1);
    const at::Tensor d_h =
        (mean * of_row.neg().unsqueeze(1)).index_add_(0, row_of_target, at_targets);
    return {d_h,          at::Tensor(), at::Tensor(), at::Tensor(),
            at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }

  static void add_product(const at::Tensor& sum, const at::Tensor& x, const at::Tensor& y) {
    if (x.scalar_type() == y.scalar_type()) {
      sum.addmm_(x, y);
    } else {
      sum.add_(head_product(x, y));
    }
  }

  // The head's rows [R, D] of the targets, in the type of `like`.
  static at::Tensor target_rows(const at::Tensor& head, const at::Tensor& local_target,
                                const at::Tensor& like) {
    return head.index_select(0, local_target).to(like.scalar_type());
  }
};

}  // namespace

at::Tensor token_log_probs(const at::Tensor& h, const at::Tensor& head,
                           const at::Tensor& row_of_target, const at::Tensor& targets,
                           Range vocabulary, double soft_cap, Communicator& tp) {
  const bool keep = at::GradMode::is_enabled() && h.requires_grad();
  return TokenLogProbs::apply(h, head, row_of_target, targets, vocabulary, SoftCap{soft_cap}, &tp,
                              keep);
}

at::Tensor token_logits(const at::Tensor& h, const at::Tensor& head, std::int64_t vocabulary,
                        double soft_cap, Communicator& tp) {
  const WorkTimer timer(Work::kHead);
  const at::Tensor logits = head_product(h, head.t());
  SoftCap{soft_cap}.apply(logits);
  if (tp.size() == 1) {
    return logits;
  }
  // Ranks exchange parts of one width: that of the first, which has the longest.
  const std::int64_t width = split_range(vocabulary, tp.size(), 0).size();
  const at::Tensor gathered =
      tp.all_gather(at::constant_pad_nd(logits, {0, width - logits.size(1)}).contiguous());
  std::vector<at::Tensor> parts;
  for (int rank = 0; rank < tp.size(); ++rank) {
    parts.push_back(gathered[rank].narrow(1, 0, split_range(vocabulary, tp.size(), rank).size()));
  }
  return at::cat(parts, 1);
}

}  // namespace bipo
