#include "trainer/model/operators/operators.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <tuple>

#include "collectives/profile.hpp"
#include "trainer/model/operators/compiled_operators.hpp"
#include "trainer/model/operators/cpu_kernels.hpp"
#include "trainer/model/operators/cpu_products.hpp"
#include "trainer/model/operators/task_queue.hpp"

namespace bipo {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The rows that a thread takes at a time.
constexpr std::int64_t kGrain = 16;

template <class Work>
void over_rows(std::int64_t rows, const Work& work) {
  share_row_ranges(rows, kGrain,
                   [&](std::int64_t begin, std::int64_t end) { work(begin, end - begin); });
}

at::Tensor rounded_to_bfloat16(const at::Tensor& x) {
  const at::Tensor dense = x.contiguous();
  const at::Tensor result = at::empty_like(dense);
  const float* from = dense.const_data_ptr<float>();
  float* to = result.mutable_data_ptr<float>();
  constexpr std::int64_t kElementGrain = 1 << 14;
  share_row_ranges(dense.numel(), kElementGrain, [&](std::int64_t begin, std::int64_t end) {
    kernels::round_to_bfloat16(from + begin, end - begin, to + begin);
  });
  return result;
}

// Returns x as the left operand of a product with `weight`; tiles round it to the weight's type
// themselves.
at::Tensor operand(const at::Tensor& x, const FrozenWeight& weight) {
  return weight.rounds_inputs ? rounded_to_bfloat16(x) : x;
}

at::Tensor in_type(const at::Tensor& x, at::ScalarType type) {
  return x.scalar_type() == type ? x : x.to(type);
}

// Whether the device has products of bfloat16 that return `type`, the accumulator's: one rounding
// and one kernel less.
bool returns_wider(const at::Tensor& matrix, at::ScalarType type) {
  return !matrix.is_cpu() && matrix.scalar_type() == at::kBFloat16 && type == at::kFloat;
}

// Returns the type of the residual stream, given an operand or a gradient that may be the narrower
// type of products.
at::ScalarType stream_type(const at::Tensor& x) {
  return !x.is_cpu() && x.scalar_type() == at::kBFloat16 ? at::kFloat : x.scalar_type();
}

// Returns residual + x W^T in the residual stream's type; `residual` may be undefined.
at::Tensor linear(const at::Tensor& x, const FrozenWeight& weight, const at::Tensor& residual) {
  const at::Tensor left = operand(x, weight);
  const at::ScalarType type = stream_type(x);
  if (runs_in_tiles(left, weight.matrix)) {
    return tiled_linear(left, weight.matrix, residual);
  }
  const at::Tensor typed = in_type(left, weight.matrix.scalar_type());
  if (returns_wider(weight.matrix, type)) {
    return residual.defined() ? at::addmm(residual, typed, weight.matrix.t(), type)
                              : at::mm(typed, weight.matrix.t(), type);
  }
  if (residual.defined() && typed.scalar_type() == residual.scalar_type()) {
    return at::addmm(residual, typed, weight.matrix.t());
  }
  const at::Tensor product = in_type(at::mm(typed, weight.matrix.t()), type);
  return residual.defined() ? residual + product : product;
}

// d (x W^T) = gradient W.
at::Tensor input_gradient(const at::Tensor& gradient, const FrozenWeight& weight) {
  const WorkTimer timer(Work::kProducts);
  const at::Tensor left = operand(gradient, weight);
  if (runs_in_tiles(left, weight.matrix)) {
    at::Tensor product = at::empty({left.size(0), weight.matrix.size(1)}, left.options());
    add_tiled_product(left, weight.matrix, product, /*overwrite=*/true);
    return product;
  }
  const at::Tensor typed = in_type(left, weight.matrix.scalar_type());
  const at::ScalarType type = stream_type(gradient);
  return returns_wider(weight.matrix, type) ? at::mm(typed, weight.matrix, type)
                                            : in_type(at::mm(typed, weight.matrix), type);
}

void keep_weight(AutogradContext* context, const FrozenWeight& weight) {
  context->save_for_backward({weight.matrix});
  context->saved_data["rounds_inputs"] = weight.rounds_inputs;
}

FrozenWeight kept_weight(AutogradContext* context) {
  return {context->get_saved_variables()[0], context->saved_data.at("rounds_inputs").toBool()};
}

struct FrozenLinear : torch::autograd::Function<FrozenLinear> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x,
                            const FrozenWeight& weight) {
    const WorkTimer timer(Work::kProducts);
    keep_weight(context, weight);
    return linear(x, weight, at::Tensor());
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    return {input_gradient(gradients[0], kept_weight(context)), at::Tensor()};
  }
};

struct FrozenLinearOnto : torch::autograd::Function<FrozenLinearOnto> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& residual,
                            const at::Tensor& x, const FrozenWeight& weight) {
    const WorkTimer timer(Work::kProducts);
    keep_weight(context, weight);
    return linear(x, weight, residual);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    return {gradients[0], input_gradient(gradients[0], kept_weight(context)), at::Tensor()};
  }
};

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            double epsilon, bool narrow) {
    const WorkTimer timer(Work::kElementwise);
    if (runs_compiled(x)) {
      const Normed normed =
          compiled_norm(x, {.weight = weight, .epsilon = epsilon, .narrow = narrow});
      context->save_for_backward({x, weight, normed.scale});
      return normed.y;
    }
    if (!x.is_cpu()) {
      const auto [y, scale] = at::_fused_rms_norm(x, weight.sizes(), weight, epsilon);
      context->save_for_backward({x, weight, scale});
      return y;
    }
    if (!runs_fused(x)) {
      const at::Tensor scale = at::rsqrt(at::mean(x * x, -1, /*keepdim=*/true).add_(epsilon));
      context->save_for_backward({x, weight, scale});
      return (x * scale).mul_(weight);
    }
    const at::Tensor y = at::empty_like(x);
    const at::Tensor scale = at::empty({x.size(0)}, x.options());
    const std::int64_t columns = x.size(1);
    over_rows(x.size(0), [&](std::int64_t begin, std::int64_t rows) {
      kernels::rms_norm(x.const_data_ptr<float>() + begin * columns, weight.const_data_ptr<float>(),
                        static_cast<float>(epsilon), rows, columns,
                        y.mutable_data_ptr<float>() + begin * columns,
                        scale.mutable_data_ptr<float>() + begin);
    });
    context->save_for_backward({x, weight, scale});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const WorkTimer timer(Work::kElementwise);
    const auto saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor& weight = saved[1];
    const at::Tensor& scale = saved[2];
    if (runs_compiled(x)) {
      return {compiled_norm_backward(x, {.weight = weight}, {.scale = scale}, gradients[0]),
              at::Tensor(), at::Tensor(), at::Tensor()};
    }
    if (!x.is_cpu()) {
      return {std::get<0>(at::_fused_rms_norm_backward(gradients[0], x, weight.sizes(), scale,
                                                       weight, {true, false})),
              at::Tensor(), at::Tensor(), at::Tensor()};
    }
    if (!runs_fused(x)) {
      // For the scale r and u = gradient * weight: dL/dx = r u - r^3 mean(u x) x.
      const at::Tensor u = gradients[0] * weight;
      const at::Tensor projection = at::mean(u * x, -1, /*keepdim=*/true).mul_(scale).mul_(scale);
      return {u.sub_(x * projection).mul_(scale), at::Tensor(), at::Tensor(), at::Tensor()};
    }
    const at::Tensor gradient = gradients[0].contiguous();
    const at::Tensor dx = at::empty_like(x);
    const std::int64_t columns = x.size(1);
    over_rows(x.size(0), [&](std::int64_t begin, std::int64_t rows) {
      const std::int64_t at = begin * columns;
      kernels::rms_norm_backward(x.const_data_ptr<float>() + at, weight.const_data_ptr<float>(),
                                 scale.const_data_ptr<float>() + begin,
                                 gradient.const_data_ptr<float>() + at, rows, columns,
                                 dx.mutable_data_ptr<float>() + at);
    });
    return {dx, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// A vector that may be undefined, which autograd does not take for an argument.
struct Bias {
  at::Tensor vector;
};

struct LayerNorm : torch::autograd::Function<LayerNorm> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const Bias& bias, double epsilon, bool narrow) {
    const WorkTimer timer(Work::kElementwise);
    if (runs_compiled(x)) {
      const Normed normed = compiled_norm(x, {.weight = weight,
                                              .bias = bias.vector,
                                              .epsilon = epsilon,
                                              .centred = true,
                                              .narrow = narrow});
      context->save_for_backward({x, weight, normed.mean, normed.scale});
      return normed.y;
    }
    auto [y, mean, scale] = at::native_layer_norm(x, {x.size(1)}, weight, bias.vector, epsilon);
    context->save_for_backward({x, weight, mean, scale});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const WorkTimer timer(Work::kElementwise);
    const auto saved = context->get_saved_variables();
    if (runs_compiled(saved[0])) {
      return {compiled_norm_backward(saved[0], {.weight = saved[1], .centred = true},
                                     {.mean = saved[2], .scale = saved[3]}, gradients[0]),
              at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
    }
    const auto dx =
        at::native_layer_norm_backward(gradients[0].contiguous(), saved[0], {saved[0].size(1)},
                                       saved[2], saved[3], saved[1], {}, {true, false, false});
    return {std::get<0>(dx), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// at::gelu's name for the kind.
const char* approximation(Activation activation) {
  return activation == Activation::kGelu ? "none" : "tanh";
}

at::Tensor activated(Activation activation, const at::Tensor& x) {
  return activation == Activation::kSilu ? at::silu(x) : at::gelu(x, approximation(activation));
}

at::Tensor activation_backward(Activation activation, const at::Tensor& gradient,
                               const at::Tensor& x) {
  return activation == Activation::kSilu
             ? at::silu_backward(gradient, x)
             : at::gelu_backward(gradient, x, approximation(activation));
}

struct GatedUnit : torch::autograd::Function<GatedUnit> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate_up,
                            Activation activation, bool narrow) {
    const WorkTimer timer(Work::kElementwise);
    context->save_for_backward({gate_up});
    context->saved_data["activation"] = static_cast<std::int64_t>(activation);
    context->saved_data["narrow"] = narrow;
    if (runs_compiled(gate_up)) {
      return compiled_gated_unit(gate_up, activation, narrow);
    }
    const auto half = gate_up.size(-1) / 2;
    if (!runs_fused(gate_up) || activation == Activation::kGelu) {
      return activated(activation, gate_up.narrow(-1, 0, half))
          .mul_(gate_up.narrow(-1, half, half));
    }
    const auto kernel = activation == Activation::kSilu ? kernels::swiglu : kernels::geglu;
    const at::Tensor out = at::empty({gate_up.size(0), half}, gate_up.options());
    over_rows(gate_up.size(0), [&](std::int64_t begin, std::int64_t rows) {
      kernel(gate_up.const_data_ptr<float>() + 2 * begin * half, rows, half,
             out.mutable_data_ptr<float>() + begin * half);
    });
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const WorkTimer timer(Work::kElementwise);
    const at::Tensor gate_up = context->get_saved_variables()[0];
    const auto activation = static_cast<Activation>(context->saved_data.at("activation").toInt());
    if (runs_compiled(gate_up)) {
      return {compiled_gated_unit_backward(gate_up, gradients[0], activation,
                                           context->saved_data.at("narrow").toBool()),
              at::Tensor(), at::Tensor()};
    }
    const auto half = gate_up.size(-1) / 2;
    if (!runs_fused(gate_up) || activation == Activation::kGelu) {
      const at::Tensor gate = gate_up.narrow(-1, 0, half);
      const at::Tensor up = gate_up.narrow(-1, half, half);
      const at::Tensor& gradient = gradients[0];
      return {at::cat({activation_backward(activation, gradient * up, gate),
                       gradient * activated(activation, gate)},
                      -1),
              at::Tensor(), at::Tensor()};
    }
    const auto kernel =
        activation == Activation::kSilu ? kernels::swiglu_backward : kernels::geglu_backward;
    const at::Tensor gradient = gradients[0].contiguous();
    const at::Tensor d_gate_up = at::empty_like(gate_up);
    over_rows(gate_up.size(0), [&](std::int64_t begin, std::int64_t rows) {
      kernel(gate_up.const_data_ptr<float>() + 2 * begin * half,
             gradient.const_data_ptr<float>() + begin * half, rows, half,
             d_gate_up.mutable_data_ptr<float>() + 2 * begin * half);
    });
    return {d_gate_up, at::Tensor(), at::Tensor()};
  }
};

at::Tensor with_bias(const at::Tensor& x, const at::Tensor& bias) {
  return bias.defined() ? x + bias : x;
}

struct PlainUnit : torch::autograd::Function<PlainUnit> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const Bias& shift,
                            Activation activation, bool narrow) {
    const WorkTimer timer(Work::kElementwise);
    const at::Tensor& bias = shift.vector;
    context->save_for_backward({x, bias});
    context->saved_data["activation"] = static_cast<std::int64_t>(activation);
    context->saved_data["narrow"] = narrow;
    if (runs_compiled(x)) {
      return compiled_plain_unit(x, bias, activation, narrow);
    }
    if (!runs_fused(x) || activation == Activation::kSilu) {
      return activated(activation, with_bias(x, bias));
    }
    const auto kernel = activation == Activation::kGelu ? kernels::gelu : kernels::gelu_tanh;
    const at::Tensor out = at::empty_like(x);
    const std::int64_t columns = x.size(1);
    over_rows(x.size(0), [&](std::int64_t begin, std::int64_t rows) {
      kernel(x.const_data_ptr<float>() + begin * columns, data_or_null(bias), rows, columns,
             out.mutable_data_ptr<float>() + begin * columns);
    });
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const WorkTimer timer(Work::kElementwise);
    const auto saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor& bias = saved[1];
    const auto activation = static_cast<Activation>(context->saved_data.at("activation").toInt());
    if (runs_compiled(x)) {
      return {compiled_plain_unit_backward(x, bias, gradients[0], activation,
                                           context->saved_data.at("narrow").toBool()),
              at::Tensor(), at::Tensor(), at::Tensor()};
    }
    if (!runs_fused(x) || activation == Activation::kSilu) {
      return {activation_backward(activation, gradients[0], with_bias(x, bias)), at::Tensor(),
              at::Tensor(), at::Tensor()};
    }
    const auto kernel =
        activation == Activation::kGelu ? kernels::gelu_backward : kernels::gelu_tanh_backward;
    const at::Tensor gradient = gradients[0].contiguous();
    const at::Tensor dx = at::empty_like(x);
    const std::int64_t columns = x.size(1);
    over_rows(x.size(0), [&](std::int64_t begin, std::int64_t rows) {
      const std::int64_t at = begin * columns;
      kernel(x.const_data_ptr<float>() + at, data_or_null(bias),
             gradient.const_data_ptr<float>() + at, rows, columns,
             dx.mutable_data_ptr<float>() + at);
    });
    return {dx, at::Tensor(), at::Tensor(), at::Tensor()};
  }

  static const float* data_or_null(const at::Tensor& bias) {
    return bias.defined() ? bias.const_data_ptr<float>() : nullptr;
  }
};

// Returns residual + factor norm(x + bias) of tensor operations that autograd knows.
at::Tensor composed_onto(const at::Tensor& residual, const at::Tensor& x,
                         const AddedBranch& branch) {
  at::Tensor sum = with_bias(x, branch.bias);
  if (branch.norm.defined()) {
    sum = rms_norm(sum, branch.norm, branch.epsilon);
  }
  return at::add(residual, sum, branch.factor);
}

// The same as one kernel.
struct CompiledOnto : torch::autograd::Function<CompiledOnto> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& residual,
                            const at::Tensor& x, const AddedBranch& branch) {
    const WorkTimer timer(Work::kElementwise);
    context->saved_data["factor"] = branch.factor;
    if (!branch.norm.defined()) {
      return compiled_add_onto(residual, x, branch.bias, branch.factor);
    }
    const Normed normed = compiled_norm(x, {.weight = branch.norm,
                                            .shift = branch.bias,
                                            .residual = residual,
                                            .epsilon = branch.epsilon,
                                            .factor = branch.factor});
    context->save_for_backward({x, branch.norm, branch.bias, normed.scale});
    return normed.y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const WorkTimer timer(Work::kElementwise);
    const double factor = context->saved_data.at("factor").toDouble();
    const at::Tensor& d = gradients[0];
    const auto saved = context->get_saved_variables();
    if (saved.empty()) {
      return {d, factor == 1 ? d : d * factor, at::Tensor()};
    }
    return {
        d,
        compiled_norm_backward(saved[0], {.weight = saved[1], .shift = saved[2], .factor = factor},
                               {.scale = saved[3]}, d),
        at::Tensor()};
  }
};

}  // namespace

bool runs_fused(const at::Tensor& x) {
  return x.is_cpu() && x.scalar_type() == at::kFloat && x.is_contiguous();
}

bool emulates_bfloat16(at::Device device) {
#if defined(__x86_64__) && defined(__GNUC__)
  return device.is_cpu() && !__builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

bool keeps_float_head(at::Device device) {
  return device.is_cpu() && !multiplies_tiles(at::kBFloat16);
}

FrozenWeight make_frozen_weight(const at::Tensor& matrix, at::ScalarType type, at::Device device) {
  const at::Tensor typed = matrix.to(at::TensorOptions().dtype(type).device(device)).contiguous();
  if (type == at::kBFloat16 && emulates_bfloat16(device)) {
    return {typed.to(at::kFloat), true};
  }
  return {typed, false};
}

void accept_any_gradient(const at::Tensor& x) {
  if (const auto node = x.grad_fn()) {
    node->mutable_input_metadata(x.output_nr()).set_grad_dtype(std::nullopt);
  }
}

namespace {

// A result whose gradient may be of the type of products, too.
at::Tensor with_any_gradient(at::Tensor x, bool applies) {
  if (applies) {
    accept_any_gradient(x);
  }
  return x;
}

}  // namespace

at::Tensor frozen_linear(const at::Tensor& x, const FrozenWeight& weight) {
  return with_any_gradient(FrozenLinear::apply(x, weight),
                           returns_wider(weight.matrix, stream_type(x)));
}

at::Tensor frozen_linear_onto(const at::Tensor& residual, const at::Tensor& x,
                              const FrozenWeight& weight) {
  return FrozenLinearOnto::apply(residual, x, weight);
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon, bool narrow) {
  return with_any_gradient(RmsNorm::apply(x, weight, epsilon, narrow), narrow);
}

at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                      double epsilon, bool narrow) {
  return with_any_gradient(LayerNorm::apply(x, weight, Bias{bias}, epsilon, narrow), narrow);
}

at::Tensor add_onto(const at::Tensor& residual, const at::Tensor& x, const AddedBranch& branch) {
  return runs_compiled(x) ? at::Tensor(CompiledOnto::apply(residual, x, branch))
                          : composed_onto(residual, x, branch);
}

at::Tensor gated_unit(const at::Tensor& gate_up, Activation activation, bool narrow) {
  return with_any_gradient(GatedUnit::apply(gate_up, activation, narrow), narrow);
}

at::Tensor gated_row_by_row(const at::Tensor& x, const at::Tensor& gate) {
  const WorkTimer timer(Work::kElementwise);
  if (!runs_fused(x) || !runs_fused(gate)) {
    return x * at::sigmoid(gate);
  }
  const at::Tensor out = at::empty_like(x);
  const std::int64_t columns = x.size(1);
  over_rows(x.size(0), [&](std::int64_t begin, std::int64_t rows) {
    const std::int64_t at = begin * columns;
    kernels::open_gates(x.const_data_ptr<float>() + at, gate.const_data_ptr<float>() + at,
                        rows * columns, out.mutable_data_ptr<float>() + at);
  });
  return out;
}

at::Tensor plain_unit(const at::Tensor& x, const at::Tensor& bias, Activation activation,
                      bool narrow) {
  return with_any_gradient(PlainUnit::apply(x, Bias{bias}, activation, narrow), narrow);
}

}  // namespace bipo
