#include "collectives/tensor_parallel.hpp"

#include <torch/csrc/autograd/custom_function.h>

namespace bipo {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor all_reduced(const at::Tensor& x, Communicator& tp) {
  at::Tensor sum = x.contiguous().clone();
  tp.all_reduce(sum, ReduceOp::kSum);
  return sum;
}

// Autograd contexts keep plain values only, here the communicator's address.
Communicator& communicator_of(const AutogradContext* context) {
  return *reinterpret_cast<Communicator*>(context->saved_data.at("tp").toInt());
}

struct CopyToTensorParallel : torch::autograd::Function<CopyToTensorParallel> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, std::int64_t tp) {
    context->saved_data["tp"] = tp;
    return x.view_as(x);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    return {all_reduced(gradients[0], communicator_of(context)), at::Tensor()};
  }
};

struct ReduceFromTensorParallel : torch::autograd::Function<ReduceFromTensorParallel> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, std::int64_t tp) {
    const at::Tensor sum = x.contiguous();
    if (sum.is_same(x)) {
      context->mark_dirty({x});
    }
    reinterpret_cast<Communicator*>(tp)->all_reduce(sum, ReduceOp::kSum);
    return sum;
  }

  static variable_list backward(AutogradContext*, const variable_list& gradients) {
    return {gradients[0], at::Tensor()};
  }
};

}  // namespace

at::Tensor copy_to_tensor_parallel(const at::Tensor& x, Communicator& tp) {
  return tp.size() == 1 ? x : CopyToTensorParallel::apply(x, reinterpret_cast<std::int64_t>(&tp));
}

at::Tensor reduce_from_tensor_parallel(const at::Tensor& x, Communicator& tp) {
  return tp.size() == 1 ? x
                        : ReduceFromTensorParallel::apply(x, reinterpret_cast<std::int64_t>(&tp));
}

}  // namespace bipo
