#include "trainer/model/operators.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace bipo {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct FrozenLinear : torch::autograd::Function<FrozenLinear> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& weight) {
    context->save_for_backward({weight});
    return at::mm(x.to(weight.scalar_type()), weight.t()).to(x.scalar_type());
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::Tensor weight = context->get_saved_variables()[0];
    const at::Tensor& gradient = gradients[0];
    return {at::mm(gradient.to(weight.scalar_type()), weight).to(gradient.scalar_type()),
            at::Tensor()};
  }
};

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            double epsilon) {
    const at::Tensor scale = at::rsqrt(at::mean(x * x, -1, /*keepdim=*/true).add_(epsilon));
    context->save_for_backward({x, weight, scale});
    return (x * scale).mul_(weight);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor& scale = saved[2];
    // With r the inverse root mean square and u = gradient * weight:
    // dL/dx = r u - r^3 mean(u x) x.
    const at::Tensor u = gradients[0] * saved[1];
    const at::Tensor projection = at::mean(u * x, -1, /*keepdim=*/true).mul_(scale).mul_(scale);
    return {u.sub_(x * projection).mul_(scale), at::Tensor(), at::Tensor()};
  }
};

// (x1, x2) -> (-x2, x1) on the halves of the last dimension: a quarter turn of each pair.
at::Tensor quarter_turn(const at::Tensor& x) {
  const auto half = x.size(-1) / 2;
  return at::cat({x.narrow(-1, half, half).neg(), x.narrow(-1, 0, half)}, -1);
}

struct Rotary : torch::autograd::Function<Rotary> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& cos,
                            const at::Tensor& sin) {
    context->save_for_backward({cos, sin});
    return (x * cos).addcmul_(quarter_turn(x), sin);
  }

  // A rotation's transpose turns back; cos and sin repeat over the two halves, so that the quarter
  // turn commutes with them.
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& gradient = gradients[0];
    return {(gradient * saved[0]).addcmul_(quarter_turn(gradient), saved[1], -1), at::Tensor(),
            at::Tensor()};
  }
};

struct SwiGlu : torch::autograd::Function<SwiGlu> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate_up) {
    context->save_for_backward({gate_up});
    const auto half = gate_up.size(-1) / 2;
    return at::silu(gate_up.narrow(-1, 0, half)).mul_(gate_up.narrow(-1, half, half));
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::Tensor gate_up = context->get_saved_variables()[0];
    const auto half = gate_up.size(-1) / 2;
    const at::Tensor gate = gate_up.narrow(-1, 0, half);
    const at::Tensor up = gate_up.narrow(-1, half, half);
    const at::Tensor& gradient = gradients[0];
    return {at::cat({at::silu_backward(gradient * up, gate), gradient * at::silu(gate)}, -1)};
  }
};

}  // namespace

at::Tensor frozen_linear(const at::Tensor& x, const at::Tensor& weight) {
  return FrozenLinear::apply(x, weight);
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon) {
  return RmsNorm::apply(x, weight, epsilon);
}

at::Tensor rotary(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  return Rotary::apply(x, cos, sin);
}

at::Tensor swiglu(const at::Tensor& gate_up) {
  return SwiGlu::apply(gate_up);
}

}  // namespace bipo
