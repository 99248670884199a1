#include "trainer/model/log_probs.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

namespace bipo {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Rows whose logits exist at one time.
constexpr std::int64_t kChunk = 256;

// Logits in h's type: a bfloat16 product on CUDA accumulates into and returns float32.
at::Tensor logits_of(const at::Tensor& h, const at::Tensor& head) {
  if (head.scalar_type() == h.scalar_type()) {
    return at::mm(h, head.t());
  }
  return at::mm(h.to(head.scalar_type()), head.t(), h.scalar_type());
}

struct TokenLogProbs : torch::autograd::Function<TokenLogProbs> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& h, const at::Tensor& head,
                            const at::Tensor& targets, Range vocabulary, Communicator* tp,
                            bool keep) {
    const std::int64_t rows = h.size(0);
    const at::Tensor log_probs = at::empty({rows}, h.options());
    const at::Tensor slope = keep ? at::empty_like(h) : at::Tensor();
    for (std::int64_t begin = 0; begin < rows; begin += kChunk) {
      const std::int64_t count = std::min(kChunk, rows - begin);
      const at::Tensor chunk_targets = targets.narrow(0, begin, count);
      const at::Tensor is_local =
          chunk_targets.ge(vocabulary.begin).logical_and_(chunk_targets.lt(vocabulary.end));
      const at::Tensor local_target = at::where(is_local, chunk_targets - vocabulary.begin, 0);

      at::Tensor logits = logits_of(h.narrow(0, begin, count), head);
      const at::Tensor largest = logits.amax(1);
      tp->all_reduce(largest, ReduceOp::kMax);
      const at::Tensor shifted = logits.sub_(largest.unsqueeze(1));
      const at::Tensor sums = at::empty({2, count}, h.options());
      sums[0].copy_(
          at::where(is_local, shifted.gather(1, local_target.unsqueeze(1)).squeeze(1), 0.0));
      const at::Tensor exponentials = shifted.exp_();
      sums[1].copy_(exponentials.sum(1));
      tp->all_reduce(sums, ReduceOp::kSum);
      log_probs.narrow(0, begin, count).copy_(sums[0] - sums[1].log());

      if (keep) {
        // d logp / d logits = onehot(target) - softmax
        const at::Tensor d_logits = exponentials.div_(sums[1].unsqueeze(1)).neg_();
        d_logits.scatter_add_(1, local_target.unsqueeze(1),
                              is_local.to(d_logits.scalar_type()).unsqueeze(1));
        slope.narrow(0, begin, count).copy_(at::mm(d_logits.to(head.scalar_type()), head));
      }
    }
    if (keep) {
      context->save_for_backward({slope});
    }
    return log_probs;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::Tensor slope = context->get_saved_variables()[0];
    return {slope * gradients[0].unsqueeze(1),
            at::Tensor(),
            at::Tensor(),
            at::Tensor(),
            at::Tensor(),
            at::Tensor()};
  }
};

}  // namespace

at::Tensor token_log_probs(const at::Tensor& h, const at::Tensor& head, const at::Tensor& targets,
                           Range vocabulary, Communicator& tp) {
  const bool keep = at::GradMode::is_enabled() && h.requires_grad();
  return TokenLogProbs::apply(h, head, targets, vocabulary, &tp, keep);
}

}  // namespace bipo
