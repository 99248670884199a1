// The decoder's operators against tensor operations in float64.
#include "trainer/model/operators/operators.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "trainer/model/operators/cpu_kernels.hpp"

namespace bipo {
namespace {

using Operator = std::function<at::Tensor(const at::Tensor&)>;

struct Outcome {
  at::Tensor value;
  at::Tensor gradient;  // of sum(value * sin(1, 2, 3, ...))
};

Outcome evaluate(const Operator& op, const at::Tensor& x) {
  const at::Tensor leaf = x.clone().set_requires_grad(true);
  const at::Tensor value = op(leaf);
  const at::Tensor upstream =
      at::arange(value.numel(), at::kDouble).sin().view(value.sizes()).to(value.scalar_type());
  value.backward(upstream);
  return {value.detach().to(at::kDouble), leaf.grad().to(at::kDouble)};
}

at::Tensor swiglu(const at::Tensor& gate_up) {
  return gated_unit(gate_up, Activation::kSilu);
}

at::Tensor geglu(const at::Tensor& gate_up) {
  return gated_unit(gate_up, Activation::kGeluTanh);
}

// Both within some roundings of float32 of the largest element.
void expect_close(const Outcome& single, const Outcome& exact) {
  constexpr double kRelative = 20 * std::numeric_limits<float>::epsilon();
  EXPECT_LT((single.value - exact.value).abs().max().item<double>(),
            kRelative * exact.value.abs().max().item<double>());
  EXPECT_LT((single.gradient - exact.gradient).abs().max().item<double>(),
            kRelative * exact.gradient.abs().max().item<double>());
}

at::Tensor random_rows(std::int64_t rows, std::int64_t columns) {
  at::manual_seed(5);
  return at::randn({rows, columns}, at::kDouble) * 3;
}

TEST(Operators, RmsNormEqualsItsFormula) {
  const at::Tensor x = random_rows(67, 37);
  const at::Tensor weight = at::randn({37}, at::kDouble);
  const Outcome exact = evaluate(
      [&](const at::Tensor& t) { return t / at::sqrt((t * t).mean(-1, true) + 1e-5) * weight; }, x);
  const Outcome single =
      evaluate([&](const at::Tensor& t) { return rms_norm(t, weight.to(at::kFloat), 1e-5); },
               x.to(at::kFloat));
  expect_close(single, exact);
  expect_close(evaluate([&](const at::Tensor& t) { return rms_norm(t, weight, 1e-5); }, x), exact);
}

TEST(Operators, SwiGluEqualsItsFormula) {
  const at::Tensor x = random_rows(67, 2 * 21);
  const Outcome exact = evaluate(
      [](const at::Tensor& t) {
        const at::Tensor gate = t.narrow(1, 0, 21);
        return gate / (1 + at::exp(-gate)) * t.narrow(1, 21, 21);
      },
      x);
  expect_close(evaluate(swiglu, x.to(at::kFloat)), exact);
  expect_close(evaluate(swiglu, x), exact);
}

// Hendrycks and Gimpel, arXiv 1606.08415, section 2.
TEST(Operators, GeGluEqualsItsFormula) {
  const at::Tensor x = random_rows(67, 2 * 21);
  const Outcome exact = evaluate(
      [](const at::Tensor& t) {
        const at::Tensor gate = t.narrow(1, 0, 21);
        const at::Tensor inner = std::sqrt(2 / M_PI) * (gate + 0.044715 * gate * gate * gate);
        return 0.5 * gate * (1 + at::tanh(inner)) * t.narrow(1, 21, 21);
      },
      x);
  expect_close(evaluate(geglu, x.to(at::kFloat)), exact);
  expect_close(evaluate(geglu, x), exact);
}

at::Tensor by_name(const at::Tensor& x, Activation activation) {
  if (activation == Activation::kSilu) {
    return x / (1 + at::exp(-x));
  }
  if (activation == Activation::kGelu) {
    return 0.5 * x * (1 + at::erf(x / std::sqrt(2.0)));
  }
  return 0.5 * x * (1 + at::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

TEST(Operators, UnitsWithoutGatesEqualTheirFormulas) {
  const at::Tensor x = random_rows(67, 21);
  const at::Tensor bias = at::randn({21}, at::kDouble);
  for (const Activation activation :
       {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh}) {
    for (const bool biased : {false, true}) {
      const at::Tensor own = biased ? bias : at::Tensor();
      const at::Tensor single = biased ? bias.to(at::kFloat) : at::Tensor();
      const Outcome exact = evaluate(
          [&](const at::Tensor& t) { return by_name(biased ? t + bias : t, activation); }, x);
      expect_close(evaluate([&](const at::Tensor& t) { return plain_unit(t, single, activation); },
                            x.to(at::kFloat)),
                   exact);
      expect_close(evaluate([&](const at::Tensor& t) { return plain_unit(t, own, activation); }, x),
                   exact);
    }
  }
}

TEST(Operators, UnitsWithoutGatesStayFiniteWhereExponentialsOverflow) {
  const at::Tensor x = at::tensor({-2e4F, -100.0F, 100.0F, 2e4F}).view({1, 4});
  for (const Activation activation : {Activation::kGelu, Activation::kGeluTanh}) {
    const Outcome found =
        evaluate([&](const at::Tensor& t) { return plain_unit(t, at::Tensor(), activation); }, x);
    EXPECT_TRUE(found.value.equal(at::tensor({0.0, 0.0, 100.0, 2e4}, at::kDouble).view({1, 4})));
    EXPECT_TRUE(found.gradient.isfinite().all().item<bool>());
  }
}

TEST(Operators, LayerNormWithABiasEqualsItsFormula) {
  const at::Tensor x = random_rows(67, 37);
  const at::Tensor weight = at::randn({37}, at::kDouble);
  const at::Tensor bias = at::randn({37}, at::kDouble);
  const Outcome exact = evaluate(
      [&](const at::Tensor& t) {
        const at::Tensor centred = t - t.mean(-1, true);
        return centred / at::sqrt((centred * centred).mean(-1, true) + 1e-5) * weight + bias;
      },
      x);
  expect_close(evaluate([&](const at::Tensor& t) { return layer_norm(t, weight, bias, 1e-5); }, x),
               exact);
  expect_close(evaluate(
                   [&](const at::Tensor& t) {
                     return layer_norm(t, weight.to(at::kFloat), bias.to(at::kFloat), 1e-5);
                   },
                   x.to(at::kFloat)),
               exact);
}

TEST(Operators, GeGluStaysFiniteWhereExponentialsOverflow) {
  const at::Tensor x = at::tensor({-2e4F, -100.0F, 100.0F, 2e4F, 1.0F, 1.0F, 1.0F, 1.0F});
  const Outcome found = evaluate(geglu, x.view({1, 8}));
  EXPECT_TRUE(found.value.equal(at::tensor({0.0, 0.0, 100.0, 2e4}, at::kDouble).view({1, 4})));
  EXPECT_TRUE(found.gradient.isfinite().all().item<bool>());
}

TEST(Operators, SwiGluStaysFiniteWhereExponentialsOverflow) {
  const at::Tensor x = at::tensor({-200.0F, -100.0F, 100.0F, 200.0F, 1.0F, 1.0F, 1.0F, 1.0F});
  const Outcome found = evaluate(swiglu, x.view({1, 8}));
  EXPECT_TRUE(found.value.equal(at::tensor({0.0, 0.0, 100.0, 200.0}).view({1, 4})));
  EXPECT_TRUE(found.gradient.isfinite().all().item<bool>());
}

TEST(Operators, NotANumberIsNotHidden) {
  at::Tensor x = at::ones({2, 40});
  x[1][3] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor normed = rms_norm(x, at::ones({40}), 1e-5);
  EXPECT_TRUE(normed[0].isfinite().all().item<bool>());
  EXPECT_TRUE(normed[1].isnan().all().item<bool>());
  EXPECT_TRUE(swiglu(x)[1].isnan().any().item<bool>());
  float largest = -std::numeric_limits<float>::infinity();
  float sum = 0;
  float shrink = 0;
  kernels::online_softmax_block(x[1].data_ptr<float>(), 1, 40, &largest, &sum, &shrink);
  EXPECT_TRUE(std::isnan(sum));
}

TEST(Operators, LinearAddsOntoTheResidual) {
  const at::Tensor x = random_rows(9, 12);
  const at::Tensor w = at::randn({7, 12}, at::kDouble);
  const at::Tensor residual = at::randn({9, 7}, at::kDouble);
  const Outcome exact =
      evaluate([&](const at::Tensor& t) { return residual + at::matmul(t, w.t()); }, x);
  const FrozenWeight weight = make_frozen_weight(w, at::kFloat, at::kCPU);
  const Outcome single = evaluate(
      [&](const at::Tensor& t) { return frozen_linear_onto(residual.to(at::kFloat), t, weight); },
      x.to(at::kFloat));
  expect_close(single, exact);
}

// The processor's bfloat16 products and those computed in float32 from rounded operands: the same
// up to float32 sums and one rounding of the result to bfloat16.
TEST(Operators, BFloat16IsTheSameWithAndWithoutInstructions) {
  const at::Tensor x = random_rows(9, 64);
  const at::Tensor w = at::randn({7, 64}, at::kDouble);
  const at::Tensor exact =
      at::matmul(x.to(at::kBFloat16).to(at::kDouble), w.to(at::kBFloat16).to(at::kDouble).t());
  const double largest = exact.abs().max().item<double>();
  const FrozenWeight emulated{w.to(at::kBFloat16).to(at::kFloat), true};
  const FrozenWeight native{w.to(at::kBFloat16), false};
  const at::Tensor single = x.to(at::kFloat);
  EXPECT_LT((frozen_linear(single, emulated).to(at::kDouble) - exact).abs().max().item<double>(),
            20 * std::numeric_limits<float>::epsilon() * largest);
  EXPECT_LT((frozen_linear(single, native).to(at::kDouble) - exact).abs().max().item<double>(),
            std::ldexp(1.0, -8) * largest);
}

TEST(Operators, RoundsToBFloat16AsTensorsDo) {
  at::Tensor x = at::randn({1000}) * 1e3;
  x[0] = 1 + std::ldexp(1.0F, -8);      // halfway, to even: down
  x[1] = 1 + 3 * std::ldexp(1.0F, -8);  // halfway, to even: up
  x[2] = std::numeric_limits<float>::infinity();
  x[3] = -0.0F;
  const at::Tensor rounded = at::empty_like(x);
  kernels::round_to_bfloat16(x.data_ptr<float>(), x.numel(), rounded.data_ptr<float>());
  EXPECT_TRUE(rounded.equal(x.to(at::kBFloat16).to(at::kFloat)));
}

}  // namespace
}  // namespace bipo
