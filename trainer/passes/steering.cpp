#include "trainer/passes/steering.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace bipo {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Steer : torch::autograd::Function<Steer> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& h,
                            const at::Tensor& coefficients, const at::Tensor& vectors) {
    context->save_for_backward({coefficients});
    return at::addmm(h, coefficients.t(), vectors);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::Tensor coefficients = context->get_saved_variables()[0];
    return {at::Tensor(), at::Tensor(), at::mm(coefficients, gradients[0])};
  }
};

}  // namespace

at::Tensor steer(const at::Tensor& h, const at::Tensor& coefficients, const at::Tensor& vectors) {
  return Steer::apply(h, coefficients, vectors);
}

}  // namespace bipo
