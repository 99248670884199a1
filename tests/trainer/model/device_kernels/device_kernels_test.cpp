// Our own kernels, compiled by the C++ compiler, against formulas in float64 and against libtorch's
// operators.
#include "trainer/model/device_kernels/device_kernels.cuh"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <ostream>
#include <string>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "tests/support/host_kernels.hpp"
#include "trainer/model/operators/compiled_operators.hpp"
#include "trainer/model/operators/operators.hpp"

namespace bipo {
namespace {

using Operator = std::function<at::Tensor(const at::Tensor&)>;

struct Case {
  at::ScalarType type;
  std::int64_t rows;
  std::int64_t columns;
};

void PrintTo(const Case& value, std::ostream* out) {
  *out << value.type << ' ' << value.rows << " x " << value.columns;
}

std::string name_of_case(const ::testing::TestParamInfo<Case>& info) {
  return std::string(c10::toString(info.param.type)) + "Of" + std::to_string(info.param.rows) +
         "By" + std::to_string(info.param.columns);
}

struct Outcome {
  at::Tensor value;
  at::Tensor gradient;  // of sum(value * upstream)
};

// A device of this program's tests is the CPU.
class DeviceKernels : public ::testing::TestWithParam<Case> {
 protected:
  DeviceKernels() {
    register_kernels(at::kCPU, &kernels_);
    at::manual_seed(7);
  }
  ~DeviceKernels() override {
    choose_kernels(KernelChoice::kAuto, at::kCPU);
    register_kernels(at::kCPU, nullptr);
  }

  // Random numbers that the type under test can hold, as float64.
  static at::Tensor numbers(std::int64_t rows, std::int64_t columns) {
    return (at::randn({rows, columns}, at::kDouble) * 3).to(GetParam().type).to(at::kDouble);
  }
  static at::Tensor numbers(std::int64_t columns) { return numbers(1, columns).view({columns}); }
  static at::Tensor typed(const at::Tensor& x) {
    return x.defined() ? x.to(GetParam().type) : at::Tensor();
  }

  static Outcome evaluate(const Operator& op, const at::Tensor& x) {
    const at::Tensor leaf = x.clone().set_requires_grad(true);
    const at::Tensor value = op(leaf);
    const at::Tensor upstream = at::arange(value.numel(), at::kDouble)
                                    .sin()
                                    .view(value.sizes())
                                    .to(GetParam().type)
                                    .to(value.scalar_type());
    value.backward(upstream);
    return {value.detach().to(at::kDouble), leaf.grad().to(at::kDouble)};
  }

  // In units of the largest number: some roundings of sums, and two of bfloat16 elements, which may
  // be some times as large as their sum.
  static double tolerance() {
    return GetParam().type == at::kDouble  ? 1e-13
           : GetParam().type == at::kFloat ? 30 * std::numeric_limits<float>::epsilon()
                                           : std::ldexp(1.0, -6);
  }

  static void expect_close(const at::Tensor& found, const at::Tensor& exact, const char* what,
                           double times = 1) {
    ASSERT_EQ(found.sizes(), exact.sizes()) << what;
    if (exact.numel() > 0) {
      EXPECT_LE((found - exact).abs().max().item<double>(),
                times * tolerance() * exact.abs().max().item<double>())
          << what;
    }
  }

  // Expects our kernel and libtorch's to compute `exact`, forward and backward.  `op` takes x in
  // the type under test.
  static void expect_formula(const Operator& op, const Operator& exact, const at::Tensor& x) {
    const Outcome right = evaluate(exact, x);
    const Outcome compiled = evaluate(op, typed(x));
    expect_close(compiled.value, right.value, "value");
    expect_close(compiled.gradient, right.gradient, "gradient");
    choose_kernels(KernelChoice::kComposed, at::kCPU);
    const Outcome composed = evaluate(op, typed(x));
    choose_kernels(KernelChoice::kAuto, at::kCPU);
    // Composed of operators, bfloat16 is rounded after each of them.
    const double times = GetParam().type == at::kBFloat16 ? 4 : 1;
    expect_close(compiled.value, composed.value, "value against libtorch's", times);
    expect_close(compiled.gradient, composed.gradient, "gradient against libtorch's", times);
  }

 private:
  testing::HostKernels kernels_;
};

at::Tensor rms_formula(const at::Tensor& x, const at::Tensor& weight) {
  return x / at::sqrt((x * x).mean(-1, true) + 1e-5) * weight;
}

at::Tensor activation_formula(const at::Tensor& x, Activation activation) {
  if (activation == Activation::kSilu) {
    return x / (1 + at::exp(-x));
  }
  if (activation == Activation::kGelu) {
    return 0.5 * x * (1 + at::erf(x / std::sqrt(2.0)));
  }
  return 0.5 * x * (1 + at::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

constexpr Activation kActivations[] = {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh};

TEST_P(DeviceKernels, RmsNorm) {
  const at::Tensor weight = numbers(GetParam().columns);
  expect_formula([&](const at::Tensor& x) { return rms_norm(x, typed(weight), 1e-5); },
                 [&](const at::Tensor& x) { return rms_formula(x, weight); },
                 numbers(GetParam().rows, GetParam().columns));
}

TEST_P(DeviceKernels, LayerNormWithAndWithoutABias) {
  const at::Tensor weight = numbers(GetParam().columns);
  for (const at::Tensor& bias : {at::Tensor(), numbers(GetParam().columns)}) {
    expect_formula(
        [&](const at::Tensor& x) { return layer_norm(x, typed(weight), typed(bias), 1e-5); },
        [&](const at::Tensor& x) {
          const at::Tensor centred = x - x.mean(-1, true);
          const at::Tensor y =
              centred / at::sqrt((centred * centred).mean(-1, true) + 1e-5) * weight;
          return bias.defined() ? y + bias : y;
        },
        numbers(GetParam().rows, GetParam().columns));
  }
}

// By both of its operands: x is the branch, then the residual stream.
TEST_P(DeviceKernels, AddOnto) {
  const at::Tensor other = numbers(GetParam().rows, GetParam().columns);
  const at::Tensor shift = numbers(GetParam().columns);
  const at::Tensor weight = numbers(GetParam().columns);
  for (const at::Tensor& bias : {at::Tensor(), shift}) {
    for (const at::Tensor& norm : {at::Tensor(), weight}) {
      for (const double factor : {1.0, 0.375}) {
        const auto exact = [&](const at::Tensor& residual, const at::Tensor& x) {
          const at::Tensor sum = bias.defined() ? x + bias : x;
          return residual + factor * (norm.defined() ? rms_formula(sum, norm) : sum);
        };
        const AddedBranch branch{typed(bias), typed(norm), 1e-5, factor};
        const at::Tensor x = numbers(GetParam().rows, GetParam().columns);
        expect_formula([&](const at::Tensor& t) { return add_onto(typed(other), t, branch); },
                       [&](const at::Tensor& t) { return exact(other, t); }, x);
        expect_formula([&](const at::Tensor& t) { return add_onto(t, typed(other), branch); },
                       [&](const at::Tensor& t) { return exact(t, other); }, x);
      }
    }
  }
}

TEST_P(DeviceKernels, AddOntoRoundsWhereLibtorchRounds) {
  const at::Tensor residual = typed(numbers(GetParam().rows, GetParam().columns));
  const at::Tensor x = typed(numbers(GetParam().rows, GetParam().columns));
  const at::Tensor shift = typed(numbers(GetParam().columns));
  EXPECT_TRUE(compiled_add_onto(residual, x, shift, 1).equal(residual + (x + shift)));
}

TEST_P(DeviceKernels, GatedUnits) {
  const std::int64_t columns = GetParam().columns;
  for (const Activation activation : kActivations) {
    expect_formula([&](const at::Tensor& x) { return gated_unit(x, activation); },
                   [&](const at::Tensor& x) {
                     return activation_formula(x.narrow(1, 0, columns), activation) *
                            x.narrow(1, columns, columns);
                   },
                   numbers(GetParam().rows, 2 * columns));
  }
}

TEST_P(DeviceKernels, UnitsWithoutGates) {
  const at::Tensor shift = numbers(GetParam().columns);
  for (const Activation activation : kActivations) {
    for (const at::Tensor& bias : {at::Tensor(), shift}) {
      expect_formula([&](const at::Tensor& x) { return plain_unit(x, typed(bias), activation); },
                     [&](const at::Tensor& x) {
                       return activation_formula(bias.defined() ? x + bias : x, activation);
                     },
                     numbers(GetParam().rows, GetParam().columns));
    }
  }
}

// Pairs (i, i + K / 2) turn as complex numbers do.
at::Tensor turned_formula(const at::Tensor& x, const at::Tensor& angles) {
  const auto halves = x.chunk(2, -1);
  const at::Tensor cos = angles.cos().unsqueeze(1);
  const at::Tensor sin = angles.sin().unsqueeze(1);
  return at::cat({halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin}, -1);
}

TEST_P(DeviceKernels, HeadsTurnAndTurnBack) {
  const std::int64_t rows = GetParam().rows;
  constexpr std::int64_t kSize = 6;
  const at::Tensor angles = at::randn({rows, kSize / 2}, at::kDouble);
  const at::Tensor cos = typed(at::cat({angles.cos(), angles.cos()}, -1).unsqueeze(1));
  const at::Tensor sin = typed(at::cat({-angles.sin(), angles.sin()}, -1).unsqueeze(1));
  for (const HeadCounts& heads :
       {HeadCounts{GetParam().columns, 2, 2}, HeadCounts{3, 0, 0}, HeadCounts{0, 2, 2}}) {
    const std::int64_t width = heads.sum() * kSize;
    const at::Tensor wide = numbers(rows, width + 5);  // the heads are columns of it
    const at::Tensor leaf = wide.clone().set_requires_grad(true);
    const at::Tensor by_head = leaf.narrow(1, 2, width).reshape({rows, heads.sum(), kSize});
    const at::Tensor turning =
        turned_formula(by_head.narrow(1, 0, heads.queries + heads.keys), angles);
    const at::Tensor exact =
        at::cat({turning, by_head.narrow(1, heads.queries + heads.keys, heads.values)}, 1);
    const at::Tensor upstream = numbers(rows, width).view({rows, heads.sum(), kSize});
    exact.backward(upstream);

    const TurnedHeads found = compiled_turn(typed(wide).narrow(1, 2, width), heads, cos, sin);
    expect_close(at::cat({found.queries, found.keys, found.values}, 1).to(at::kDouble),
                 exact.detach(), "value");
    const at::Tensor d = typed(upstream);
    const at::Tensor back =
        compiled_turn_back({d.narrow(1, 0, heads.queries), d.narrow(1, heads.queries, heads.keys),
                            d.narrow(1, heads.queries + heads.keys, heads.values)},
                           heads, cos, sin);
    expect_close(back.to(at::kDouble), leaf.grad().narrow(1, 2, width), "gradient");

    // What has no gradient counts as 0.
    const at::Tensor without = compiled_turn_back(
        {d.narrow(1, 0, heads.queries), at::Tensor(), at::Tensor()}, heads, cos, sin);
    const std::int64_t of_queries = heads.queries * kSize;
    EXPECT_TRUE(without.narrow(1, 0, of_queries).equal(back.narrow(1, 0, of_queries)));
    EXPECT_TRUE(without.narrow(1, of_queries, width - of_queries).eq(0).all().item<bool>());
  }
}

// Biases, norms of each kind and factors of queries, before heads turn.
TEST_P(DeviceKernels, HeadsPassThroughTheirOperandsAndTurn) {
  const std::int64_t rows = GetParam().rows;
  constexpr std::int64_t kSize = 40;  // more than a warp
  constexpr HeadCounts kHeads{3, 2, 2};
  const std::int64_t width = kHeads.sum() * kSize;
  const at::Tensor angles = at::randn({rows, kSize / 2}, at::kDouble);
  const at::Tensor cos = typed(at::cat({angles.cos(), angles.cos()}, -1).unsqueeze(1));
  const at::Tensor sin = typed(at::cat({-angles.sin(), angles.sin()}, -1).unsqueeze(1));
  const at::Tensor bias = numbers(width);
  const at::Tensor norms[] = {numbers(kSize), numbers(kSize), numbers(kSize)};
  const at::Tensor factor = numbers(rows, 1);
  struct Applied {
    bool bias, norms, value_norm, factor;
  };
  for (const Applied& applied :
       {Applied{true, false, false, false}, Applied{true, true, false, true},
        Applied{false, true, true, false}}) {
    const HeadTransforms operands{.bias = applied.bias ? typed(bias) : at::Tensor(),
                                  .query_norm = applied.norms ? typed(norms[0]) : at::Tensor(),
                                  .key_norm = applied.norms ? typed(norms[1]) : at::Tensor(),
                                  .value_norm = applied.value_norm ? typed(norms[2]) : at::Tensor(),
                                  .query_factor = applied.factor ? typed(factor) : at::Tensor(),
                                  .epsilon = 1e-5};
    const at::Tensor x = numbers(rows, width);
    const at::Tensor leaf = x.clone().set_requires_grad(true);
    const at::Tensor by_head =
        (applied.bias ? leaf + bias : leaf).reshape({rows, kHeads.sum(), kSize});
    const auto kind = [&](std::int64_t first, std::int64_t count, bool is_normed,
                          const at::Tensor& norm) {
      const at::Tensor heads = by_head.narrow(1, first, count);
      return is_normed ? rms_formula(heads, norm) : heads;
    };
    const at::Tensor q = kind(0, 3, applied.norms, norms[0]);
    const at::Tensor exact =
        at::cat({turned_formula(applied.factor ? q * factor.unsqueeze(2) : q, angles),
                 turned_formula(kind(3, 2, applied.norms, norms[1]), angles),
                 kind(5, 2, applied.value_norm, norms[2])},
                1);
    const at::Tensor upstream = numbers(rows, width).view({rows, kHeads.sum(), kSize});
    exact.backward(upstream);

    // bfloat16 is rounded behind the norm, behind the factor and twice in the rotation.
    const double times = GetParam().type == at::kBFloat16 ? 2 : 1;
    const TurnedHeads found = compiled_turn(typed(x), kHeads, cos, sin, operands);
    expect_close(at::cat({found.queries, found.keys, found.values}, 1).to(at::kDouble),
                 exact.detach(), "value", times);
    const at::Tensor d = typed(upstream);
    const TurnedHeads gradients{d.narrow(1, 0, 3), d.narrow(1, 3, 2), d.narrow(1, 5, 2)};
    const at::Tensor back = compiled_turn_back(gradients, kHeads, cos, sin, operands, typed(x));
    expect_close(back.to(at::kDouble), leaf.grad(), "gradient", times);

    if (GetParam().type == at::kFloat) {
      const TurnedHeads narrow = compiled_turn(typed(x), kHeads, cos, sin, operands, true);
      EXPECT_TRUE(narrow.queries.equal(found.queries.to(at::kBFloat16)));
      EXPECT_TRUE(
          narrow.keys_and_values.equal(at::cat({found.keys, found.values}, 1).to(at::kBFloat16)));
      const at::Tensor halves = at::cat({gradients.keys, gradients.values}, 1).to(at::kBFloat16);
      const TurnedHeads rounded{gradients.queries.to(at::kBFloat16), halves.narrow(1, 0, 2),
                                halves.narrow(1, 2, 2)};
      const TurnedHeads wide{rounded.queries.to(at::kFloat), rounded.keys.to(at::kFloat),
                             rounded.values.to(at::kFloat)};
      EXPECT_TRUE(compiled_turn_back(rounded, kHeads, cos, sin, operands, typed(x), /*narrow=*/true)
                      .equal(compiled_turn_back(wide, kHeads, cos, sin, operands, typed(x))
                                 .to(at::kBFloat16)));
    }
  }
}

// Norms of all heads of a kind together.
TEST_P(DeviceKernels, HeadsAreNormedTogether) {
  const std::int64_t rows = GetParam().rows;
  constexpr std::int64_t kSize = 40;
  constexpr HeadCounts kHeads{3, 2, 2};
  const std::int64_t width = kHeads.sum() * kSize;
  const at::Tensor angles = at::randn({rows, kSize / 2}, at::kDouble);
  const at::Tensor cos = typed(at::cat({angles.cos(), angles.cos()}, -1).unsqueeze(1));
  const at::Tensor sin = typed(at::cat({-angles.sin(), angles.sin()}, -1).unsqueeze(1));
  const at::Tensor bias = numbers(width);
  const at::Tensor of_queries = numbers(3 * kSize);
  const at::Tensor of_keys = numbers(2 * kSize);
  const HeadTransforms operands{.bias = typed(bias),
                                .query_norm = typed(of_queries),
                                .key_norm = typed(of_keys),
                                .epsilon = 1e-5,
                                .together = true};
  const at::Tensor x = numbers(rows, width);
  const at::Tensor leaf = x.clone().set_requires_grad(true);
  const at::Tensor shifted = leaf + bias;
  const auto heads = [&](const at::Tensor& columns) {
    return columns.reshape({rows, columns.size(1) / kSize, kSize});
  };
  const at::Tensor exact = at::cat(
      {turned_formula(heads(rms_formula(shifted.narrow(1, 0, 3 * kSize), of_queries)), angles),
       turned_formula(heads(rms_formula(shifted.narrow(1, 3 * kSize, 2 * kSize), of_keys)), angles),
       heads(shifted.narrow(1, 5 * kSize, 2 * kSize))},
      1);
  const at::Tensor upstream = numbers(rows, width).view({rows, kHeads.sum(), kSize});
  exact.backward(upstream);

  const double times = GetParam().type == at::kBFloat16 ? 2 : 1;
  const TurnedHeads found = compiled_turn(typed(x), kHeads, cos, sin, operands);
  expect_close(at::cat({found.queries, found.keys, found.values}, 1).to(at::kDouble),
               exact.detach(), "value", times);
  const at::Tensor d = typed(upstream);
  const at::Tensor back =
      compiled_turn_back({d.narrow(1, 0, 3), d.narrow(1, 3, 2), d.narrow(1, 5, 2)}, kHeads, cos,
                         sin, operands, typed(x));
  expect_close(back.to(at::kDouble), leaf.grad(), "gradient", times);

  // Queries by themselves, as in a model's last block.
  const at::Tensor alone =
      compiled_turn(typed(x).narrow(1, 0, 3 * kSize), {3, 0, 0}, cos, sin, operands).queries;
  EXPECT_TRUE(alone.equal(found.queries));
}

// Keys with a norm and a rotation, and values with a norm alone, from the same numbers.
TEST_P(DeviceKernels, ValuesThatAreKeys) {
  const std::int64_t rows = GetParam().rows;
  constexpr std::int64_t kSize = 40;
  constexpr HeadCounts kHeads{3, 2, 2, /*shares_keys=*/true};
  const std::int64_t width = kHeads.in_row() * kSize;
  const at::Tensor angles = at::randn({rows, kSize / 2}, at::kDouble);
  const at::Tensor cos = typed(at::cat({angles.cos(), angles.cos()}, -1).unsqueeze(1));
  const at::Tensor sin = typed(at::cat({-angles.sin(), angles.sin()}, -1).unsqueeze(1));
  const at::Tensor norms[] = {numbers(kSize), numbers(kSize), numbers(kSize)};
  for (const bool is_normed : {false, true}) {
    HeadTransforms operands{.epsilon = 1e-5, .shares_keys = true};
    if (is_normed) {
      operands.query_norm = typed(norms[0]);
      operands.key_norm = typed(norms[1]);
      operands.value_norm = typed(norms[2]);
    }
    const at::Tensor x = numbers(rows, width);
    const at::Tensor leaf = x.clone().set_requires_grad(true);
    const at::Tensor by_head = leaf.reshape({rows, kHeads.in_row(), kSize});
    const auto kind = [&](std::int64_t first, std::int64_t count, const at::Tensor& norm) {
      const at::Tensor heads = by_head.narrow(1, first, count);
      return is_normed ? rms_formula(heads, norm) : heads;
    };
    const at::Tensor exact =
        at::cat({turned_formula(kind(0, 3, norms[0]), angles),
                 turned_formula(kind(3, 2, norms[1]), angles), kind(3, 2, norms[2])},
                1);
    const at::Tensor upstream =
        numbers(rows, kHeads.sum() * kSize).view({rows, kHeads.sum(), kSize});
    exact.backward(upstream);

    const double times = GetParam().type == at::kBFloat16 ? 2 : 1;
    const TurnedHeads found = compiled_turn(typed(x), kHeads, cos, sin, operands);
    expect_close(at::cat({found.queries, found.keys, found.values}, 1).to(at::kDouble),
                 exact.detach(), "value", times);
    const at::Tensor d = typed(upstream);
    const at::Tensor back =
        compiled_turn_back({d.narrow(1, 0, 3), d.narrow(1, 3, 2), d.narrow(1, 5, 2)}, kHeads, cos,
                           sin, operands, typed(x));
    expect_close(back.to(at::kDouble), leaf.grad(), "gradient", times);
  }
}

// Two spans of three slots over four rows; the last slot of the second span repeats row 2.
TEST_P(DeviceKernels, RowsGoIntoSlotsAndBack) {
  const std::int64_t size = GetParam().columns;
  const at::Tensor x = typed(numbers(4, 2 * size)).view({4, 2, size});
  const at::Tensor row_of_slot = at::tensor({0, 1, 0, 2, 3, 2}, at::kLong);
  const at::Tensor head_of = at::tensor({0, 0, 1}, at::kLong);
  for (const bool by_slot : {false, true}) {
    const at::Tensor slots = compiled_to_slots(
        x, {.row_of_slot = row_of_slot, .head_of = head_of, .spans = 2, .by_slot = by_slot},
        GetParam().type);
    const at::Tensor exact = x.index_select(0, row_of_slot)
                                 .view({2, 3, 2, size})
                                 .transpose(1, 2)
                                 .index_select(1, head_of);
    EXPECT_TRUE(slots.equal(exact));
    EXPECT_EQ(slots.stride(2), by_slot ? 3 * size : size);

    // Row 0 lies in two slots of the first span, of which this table names the last.
    const at::Tensor slot_of_row = at::tensor({2, 1, 3, 4}, at::kLong);
    EXPECT_TRUE(
        compiled_from_slots(slots, slot_of_row)
            .equal(exact.transpose(1, 2).reshape({6, 3, size}).index_select(0, slot_of_row)));
    const at::Tensor filled = compiled_to_slots(
        x, {.row_of_slot = row_of_slot, .slot_of_row = slot_of_row, .spans = 2}, GetParam().type);
    EXPECT_TRUE(filled.select(0, 0).select(1, 0).eq(0).all().item<bool>());
    EXPECT_TRUE(filled.select(0, 1).select(1, 2).eq(0).all().item<bool>());
    EXPECT_TRUE(filled.select(0, 0).select(1, 2).equal(x.select(0, 0)));

    const at::Tensor sums = at::zeros({4, 2, size}, x.options());
    compiled_sum_slots(slots, at::tensor({0, 2, 1, 3, 5, 4}, at::kLong),
                       at::tensor({0, 2, 3, 5, 6}, at::kLong), at::tensor({0, 2, 3}, at::kLong),
                       sums);
    // Every row as often as it is there; the first of its heads is there twice.
    const at::Tensor times = at::tensor({2.0, 1.0, 2.0, 1.0}, at::kDouble).view({4, 1, 1}) *
                             at::tensor({2.0, 1.0}, at::kDouble).view({1, 2, 1});
    EXPECT_TRUE(sums.equal((x.to(at::kDouble) * times).to(GetParam().type)));
  }
}

TEST_P(DeviceKernels, CappedSoftmax) {
  const std::int64_t columns = GetParam().columns;
  constexpr double kScale = 0.7;
  constexpr double kCap = 5;
  const at::Tensor x = numbers(2 * 3 * 4, columns).view({2, 3, 4, columns});
  const at::Tensor wide_bias = at::zeros({2, 1, 4, columns + 3}, at::kDouble);
  wide_bias.narrow(3, 1, 2).fill_(-std::numeric_limits<double>::infinity());
  wide_bias.select(2, 3).narrow(2, 3, 2).fill_(-std::numeric_limits<double>::infinity());
  const at::Tensor bias = wide_bias.narrow(3, 0, columns);
  const at::Tensor leaf = x.clone().set_requires_grad(true);
  const at::Tensor exact = at::softmax(kCap * at::tanh(leaf * (kScale / kCap)) + bias, -1);
  const at::Tensor upstream = numbers(2 * 3 * 4, columns).view({2, 3, 4, columns});
  exact.backward(upstream);
  const at::Tensor dense_bias = typed(wide_bias).narrow(3, 0, columns);
  const at::Tensor weights = compiled_capped_softmax(typed(x), dense_bias, kScale, kCap);
  expect_close(weights.to(at::kDouble), exact.detach(), "weights");
  const at::Tensor d = typed(upstream);
  compiled_capped_softmax_backward(typed(x), weights, kScale, kCap, d);
  // The weights of a bfloat16 call are rounded before their mean gradient is taken.
  expect_close(d.to(at::kDouble), leaf.grad(), "gradient",
               GetParam().type == at::kBFloat16 ? 4 : 1);
}

// Results for products are what a conversion would make of the others, and gradients the same.
TEST_P(DeviceKernels, NarrowResultsAreRoundedOnce) {
  if (GetParam().type != at::kFloat) {
    return;  // the residual stream of a model in bfloat16 is float32
  }
  const std::int64_t columns = GetParam().columns;
  const at::Tensor weight = typed(numbers(columns));
  const at::Tensor x = typed(numbers(GetParam().rows, columns));
  const at::Tensor both = typed(numbers(GetParam().rows, 2 * columns));
  const auto expect_rounded = [](const auto& op, const at::Tensor& input, bool gradient_too) {
    const auto run = [&](bool narrow) {
      const at::Tensor leaf = input.clone().set_requires_grad(true);
      const at::Tensor value = op(leaf, narrow);
      value.backward(at::arange(value.numel(), at::kFloat).sin().view(value.sizes()));
      return std::pair(value.detach(), leaf.grad());
    };
    const auto [wide, d_wide] = run(false);
    const auto [narrow, d_narrow] = run(true);
    EXPECT_TRUE(narrow.equal(wide.to(at::kBFloat16)));
    EXPECT_TRUE(d_narrow.equal(gradient_too ? d_wide.to(at::kBFloat16).to(at::kFloat) : d_wide));
  };
  expect_rounded(
      [&](const at::Tensor& t, bool narrow) { return rms_norm(t, weight, 1e-5, narrow); }, x,
      false);
  expect_rounded(
      [&](const at::Tensor& t, bool narrow) { return layer_norm(t, weight, weight, 1e-5, narrow); },
      x, false);
  expect_rounded(
      [](const at::Tensor& t, bool narrow) { return gated_unit(t, Activation::kSilu, narrow); },
      both, true);
  expect_rounded([&](const at::Tensor& t,
                     bool narrow) { return plain_unit(t, weight, Activation::kGelu, narrow); },
                 x, true);
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    for (const std::int64_t rows : {0, 1, 67}) {
      for (const std::int64_t columns : {5, 37, 611}) {  // below a warp, and above a block
        cases.push_back({type, rows, columns});
      }
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Sizes, DeviceKernels, ::testing::ValuesIn(all_cases()), name_of_case);

TEST(DeviceKernelTypes, BFloat16IsRoundedAsTensorsAre) {
  const float halfway = std::ldexp(1.0F, -8);
  for (const float x : {1 + halfway, 1 + 3 * halfway, 1 + 1.01F * halfway, -0.0F, 1e-40F, 3.4e38F,
                        std::numeric_limits<float>::infinity(), -1e3F}) {
    device_kernels::BFloat16 stored{};
    device_kernels::store(x, stored);
    EXPECT_EQ(stored.bits, c10::BFloat16(x).x) << x;
  }
  device_kernels::BFloat16 stored{};
  device_kernels::store(std::numeric_limits<float>::quiet_NaN(), stored);
  EXPECT_TRUE(std::isnan(device_kernels::wide(stored)));
}

TEST(DeviceKernelTypes, ActivationsStayFiniteWhereExponentialsOverflow) {
  for (const float x : {-2e4F, -100.0F, 100.0F, 2e4F, 1e30F}) {
    for (const int unit :
         {device_kernels::kSilu, device_kernels::kGelu, device_kernels::kGeluTanh}) {
      const auto found = device_kernels::activated(unit, x);
      EXPECT_FLOAT_EQ(found.value, std::max(x, 0.0F)) << unit << ' ' << x;
      EXPECT_NEAR(found.slope, x > 0 ? 1 : 0, 1e-6) << unit << ' ' << x;
    }
  }
}

TEST(KernelChoice, IsMadeInOnePlace) {
  testing::HostKernels kernels;
  EXPECT_EQ(kernels_for(at::kCPU), nullptr);
  register_kernels(at::kCPU, &kernels);
  EXPECT_EQ(kernels_for(at::kCPU), &kernels);
  choose_kernels(KernelChoice::kComposed, at::kCPU);
  EXPECT_EQ(kernels_for(at::kCPU), nullptr);
  EXPECT_EQ(choose_kernels(KernelChoice::kAuto, at::kCPU), "");
  EXPECT_EQ(kernels_for(at::kCPU), &kernels);
  register_kernels(at::kCPU, nullptr);
  EXPECT_THROW(choose_kernels(KernelChoice::kCompiled, at::kCPU), UserError);
  choose_kernels(KernelChoice::kAuto, at::kCPU);
}

}  // namespace
}  // namespace bipo
