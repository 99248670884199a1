// The gated delta rule and its convolution: against loops over single tokens of single sequences,
// and their gradients against finite differences in float64.
#include "trainer/model/recurrence/delta_rule.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

namespace bipo {
namespace {

constexpr std::int64_t kTaps = 4;

// Two trees.  In the first, a beginning is shared by two prompts with two answers each, one of them
// shorter than the convolution; prompts and answers are longer than the rows computed together.
struct Case {
  std::vector<SequencePart> parts;
  std::int64_t rows = 0;
};

Case make_case() {
  Case result;
  const auto add = [&](std::int64_t rows, std::vector<Range> context) {
    const Range range{result.rows, result.rows + rows};
    result.parts.push_back({range, std::move(context)});
    result.rows += rows;
    return range;
  };
  const Range shared = add(70, {});
  const Range first = add(2, {shared});
  add(1, {shared, first});
  add(66, {shared, first});
  const Range second = add(5, {shared});
  add(9, {shared, second});
  const Range other = add(3, {});
  add(4, {other});
  add(2, {other});
  return result;
}

// Two heads of values share the first head of keys, the third has one of its own.
SharedDeltaHeads make_heads(std::int64_t key_size, std::int64_t value_size) {
  const auto heads = std::make_shared<DeltaHeads>(DeltaHeads{key_size, value_size, 2, {0, 0, 1}});
  set_head_tables(*heads, at::kCPU);
  return heads;
}

DeltaOperands random_operands(std::int64_t rows, const DeltaHeads& heads, std::uint64_t seed = 3) {
  at::manual_seed(seed);
  return {at::randn({rows, heads.columns()}, at::kDouble),
          -at::rand({rows, heads.value_heads()}, at::kDouble) * 0.7,
          at::rand({rows, heads.value_heads()}, at::kDouble)};
}

// The loops for the CPU take float32, tensor operations anything else.
RecurrenceTables tables_for(at::ScalarType type) {
  return type == at::kFloat ? RecurrenceTables::kNone : RecurrenceTables::kPadded;
}

SharedRecurrence layout_of(const Case& of, at::ScalarType type) {
  return std::make_shared<RecurrentLayout>(
      recurrence_over(of.parts, kTaps, tables_for(type), at::kCPU));
}

// The rows of the sequence that ends with a part.
std::vector<std::int64_t> sequence_of(const SequencePart& part) {
  std::vector<std::int64_t> rows;
  const auto append = [&](const Range& range) {
    for (std::int64_t row = range.begin; row < range.end; ++row) {
      rows.push_back(row);
    }
  };
  std::for_each(part.context.begin(), part.context.end(), append);
  append(part.rows);
  return rows;
}

// The definition, token by token, for one sequence at a time.
at::Tensor by_definition(const DeltaOperands& x, const DeltaHeads& heads, const Case& of) {
  const at::Tensor result = at::zeros({of.rows, heads.value_columns()}, x.mixed.options());
  for (const SequencePart& part : of.parts) {
    const auto sequence = sequence_of(part);
    for (std::int64_t head = 0; head < heads.value_heads(); ++head) {
      const std::int64_t key_head = heads.key_head_of_value[static_cast<std::size_t>(head)];
      at::Tensor state = at::zeros({heads.key_size, heads.value_size}, x.mixed.options());
      for (const std::int64_t row : sequence) {
        const auto columns = [&](std::int64_t first, std::int64_t size) {
          return x.mixed[row].narrow(0, first, size);
        };
        const auto unit = [](const at::Tensor& v) { return v / (v.dot(v) + 1e-6).sqrt(); };
        const at::Tensor query = unit(columns(key_head * heads.key_size, heads.key_size)) /
                                 std::sqrt(static_cast<double>(heads.key_size));
        const at::Tensor key =
            unit(columns(heads.key_columns() + key_head * heads.key_size, heads.key_size));
        const at::Tensor value =
            columns(2 * heads.key_columns() + head * heads.value_size, heads.value_size);
        state = state * x.decays[row][head].exp();
        const at::Tensor change = (value - at::mv(state.t(), key)) * x.steps[row][head];
        state = state + at::outer(key, change);
        result[row]
            .narrow(0, head * heads.value_size, heads.value_size)
            .copy_(at::mv(state.t(), query));
      }
    }
  }
  return result;
}

DeltaOperands in_type(const DeltaOperands& x, at::ScalarType type) {
  return {x.mixed.to(type), x.decays.to(type), x.steps.to(type)};
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

at::Tensor upstream_of(const at::Tensor& value) {
  return at::arange(value.numel(), at::kDouble).sin().view(value.sizes()).to(value.scalar_type());
}

struct Sizes {
  std::int64_t keys;
  std::int64_t values;
};

void PrintTo(const Sizes& sizes, std::ostream* out) {
  *out << sizes.keys << " by " << sizes.values;
}

class DeltaRule : public ::testing::TestWithParam<Sizes> {};

INSTANTIATE_TEST_SUITE_P(Heads, DeltaRule,
                         ::testing::Values(Sizes{5, 7}, Sizes{16, 32}, Sizes{70, 20}),
                         [](const auto& instance) {
                           return std::to_string(instance.param.keys) + "by" +
                                  std::to_string(instance.param.values);
                         });

TEST_P(DeltaRule, IsTheRecurrenceOfEverySequenceByItself) {
  const auto heads = make_heads(GetParam().keys, GetParam().values);
  const Case packed = make_case();
  const DeltaOperands x = random_operands(packed.rows, *heads);
  const at::Tensor expected = by_definition(x, *heads, packed);
  EXPECT_LT(
      largest_difference(gated_delta_rule(x, heads, layout_of(packed, at::kDouble)), expected),
      1e-13);
  EXPECT_LT(
      largest_difference(
          gated_delta_rule(in_type(x, at::kFloat), heads, layout_of(packed, at::kFloat)), expected),
      2e-6);
}

using Gradients = std::vector<at::Tensor>;

Gradients gradients(const DeltaOperands& x, const SharedDeltaHeads& heads, const Case& of,
                    at::ScalarType type) {
  const DeltaOperands typed = in_type(x, type);
  Gradients leaves;
  for (const at::Tensor& tensor : {typed.mixed, typed.decays, typed.steps}) {
    leaves.push_back(tensor.detach().clone().set_requires_grad(true));
  }
  const at::Tensor result =
      gated_delta_rule({leaves[0], leaves[1], leaves[2]}, heads, layout_of(of, type));
  result.backward(upstream_of(result));
  return {leaves[0].grad(), leaves[1].grad(), leaves[2].grad()};
}

// Differences along random directions of all operands together.
TEST_P(DeltaRule, HasTheGradientThatFiniteDifferencesShow) {
  const auto heads = make_heads(GetParam().keys, GetParam().values);
  const Case packed = make_case();
  const DeltaOperands x = random_operands(packed.rows, *heads);
  const Gradients in_double = gradients(x, heads, packed, at::kDouble);
  const Gradients in_float = gradients(x, heads, packed, at::kFloat);
  const std::vector<at::Tensor> operands = {x.mixed, x.decays, x.steps};
  const at::NoGradGuard no_grad;
  for (std::size_t which = 0; which < operands.size(); ++which) {
    const double scale = in_double[which].abs().max().item<double>();
    EXPECT_LT(largest_difference(in_float[which], in_double[which]), 1e-5 * scale) << which;
    for (std::uint64_t seed = 0; seed < 3; ++seed) {
      at::manual_seed(seed);
      const at::Tensor direction = at::randn(operands[which].sizes(), at::kDouble);
      constexpr double kStep = 1e-5;
      const auto value_at = [&](double step) {
        std::vector<at::Tensor> moved = operands;
        moved[which] = moved[which] + direction * step;
        const at::Tensor result = by_definition({moved[0], moved[1], moved[2]}, *heads, packed);
        return (result * upstream_of(result)).sum().item<double>();
      };
      const double slope = (value_at(kStep) - value_at(-kStep)) / (2 * kStep);
      const double found = (in_double[which] * direction).sum().item<double>();
      EXPECT_NEAR(found, slope, 1e-7 * std::abs(slope) + 1e-6) << which << " seed " << seed;
    }
  }
}

// Decays so strong that the inverse of their product overflows.
TEST(DeltaRuleTest, SurvivesStrongDecays) {
  const auto heads = make_heads(6, 5);
  const Case packed = make_case();
  DeltaOperands x = random_operands(packed.rows, *heads);
  x.decays = x.decays * 100;
  const at::Tensor expected = by_definition(x, *heads, packed);
  const at::Tensor found =
      gated_delta_rule(in_type(x, at::kFloat), heads, layout_of(packed, at::kFloat));
  EXPECT_LT(largest_difference(found, expected), 2e-6);
  for (const at::Tensor& gradient : gradients(x, heads, packed, at::kFloat)) {
    EXPECT_TRUE(at::isfinite(gradient).all().item<bool>());
  }
}

at::Tensor convolution_by_definition(const at::Tensor& x, const at::Tensor& weight,
                                     const Case& of) {
  const at::Tensor result = at::zeros({of.rows, weight.size(1)}, x.options());
  for (const SequencePart& part : of.parts) {
    const auto sequence = sequence_of(part);
    for (std::size_t i = 0; i < sequence.size(); ++i) {
      at::Tensor sum = at::zeros({weight.size(1)}, x.options());
      for (std::int64_t tap = 0; tap < kTaps; ++tap) {
        const std::int64_t place = static_cast<std::int64_t>(i) - (kTaps - 1) + tap;
        if (place >= 0) {
          sum = sum + weight[tap] * x[sequence[static_cast<std::size_t>(place)]];
        }
      }
      result[sequence[i]].copy_(sum * at::sigmoid(sum));
    }
  }
  return result;
}

TEST(ShortConvolution, SeesTheRowsBeforeInItsOwnSequence) {
  const Case packed = make_case();
  at::manual_seed(5);
  const at::Tensor x = at::randn({packed.rows, 530}, at::kDouble);
  const at::Tensor weight = at::randn({kTaps, 530}, at::kDouble);
  const at::Tensor expected = convolution_by_definition(x, weight, packed);
  for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
    const at::Tensor leaf = x.to(type).clone().set_requires_grad(true);
    const at::Tensor found = short_convolution(leaf, weight.to(type), layout_of(packed, type));
    EXPECT_LT(largest_difference(found.detach(), expected), type == at::kDouble ? 1e-14 : 3e-6);
    found.backward(upstream_of(found));
    const at::NoGradGuard no_grad;
    at::manual_seed(6);
    const at::Tensor direction = at::randn(x.sizes(), at::kDouble);
    constexpr double kStep = 1e-6;
    const auto value_at = [&](double step) {
      const at::Tensor result = convolution_by_definition(x + direction * step, weight, packed);
      return (result * upstream_of(result)).sum().item<double>();
    };
    const double slope = (value_at(kStep) - value_at(-kStep)) / (2 * kStep);
    EXPECT_NEAR((leaf.grad().to(at::kDouble) * direction).sum().item<double>(), slope,
                (type == at::kDouble ? 1e-6 : 1e-4) * std::abs(slope));
  }
}

// A prompt, then two answers that go on from its state, the second of them token by token.
TEST(CachedDeltaRule, GoesOnFromTheStateOfEarlierRows) {
  const auto heads = make_heads(6, 5);
  Case whole;
  whole.parts = {{{0, 9}, {}}, {{9, 16}, {{0, 9}}}, {{16, 21}, {{0, 9}}}};
  whole.rows = 21;
  at::manual_seed(8);
  const at::Tensor raw = at::randn({whole.rows, heads->columns()}, at::kDouble);
  const at::Tensor weight = at::randn({kTaps, heads->columns()}, at::kDouble);
  DeltaOperands x = random_operands(whole.rows, *heads);
  x.mixed = convolution_by_definition(raw, weight, whole);
  const at::Tensor expected = by_definition(x, *heads, whole);
  for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
    const KeptStates kept{
        at::full({4, heads->value_heads(), heads->key_size, heads->value_size}, NAN,
                 at::TensorOptions().dtype(type)),
        at::full({4, kTaps - 1, heads->columns()}, NAN, at::TensorOptions().dtype(type))};
    at::Tensor found = at::zeros_like(expected);
    const auto run = [&](const std::vector<CachedPart>& parts,
                         const std::vector<std::int64_t>& rows) {
      const at::NoGradGuard no_grad;
      const at::Tensor which = at::tensor(rows, at::kLong);
      const CachedRecurrence layout = recurrence_over(parts, kTaps, tables_for(type), at::kCPU);
      const at::Tensor mixed =
          cached_convolution(raw.index_select(0, which).to(type), weight.to(type), layout, kept);
      const at::Tensor result = cached_delta_rule({mixed, x.decays.index_select(0, which).to(type),
                                                   x.steps.index_select(0, which).to(type)},
                                                  *heads, layout, kept);
      found.index_copy_(0, which, result.to(at::kDouble));
    };
    // Regions hold more rows than are used and are numbered in another order than their rows.
    const Range prompt{11, 20};
    run({{{0, 9}, prompt, {}, 3, -1}}, {0, 1, 2, 3, 4, 5, 6, 7, 8});
    run({{{0, 7}, {20, 27}, {prompt}, 0, 3}, {{7, 8}, {0, 1}, {prompt}, 2, 3}},
        {9, 10, 11, 12, 13, 14, 15, 16});
    for (std::int64_t i = 1; i < 5; ++i) {
      run({{{0, 1}, {0, 1 + i}, {prompt}, 2, 3}}, {16 + i});
    }
    EXPECT_LT(largest_difference(found, expected), type == at::kDouble ? 1e-13 : 5e-6);
  }
}

// A sequence whole, in two parts, and beside others.
TEST(CachedDeltaRule, HasTheSameBitsWhereverPartsAreCut) {
  const auto heads = make_heads(16, 33);
  constexpr std::int64_t kRows = 150;
  at::manual_seed(9);
  const auto random = [](std::int64_t rows, std::int64_t columns) {
    return at::randn({rows, columns}, at::kFloat);
  };
  const at::Tensor raw = random(2 * kRows, heads->columns());
  // Columns of a wider matrix, as the products leave them.
  const at::Tensor rates = random(2 * kRows, 7);
  const at::Tensor weight = random(kTaps, heads->columns());
  const at::Tensor bias = random(1, heads->value_heads())[0];
  const at::Tensor scale = -random(1, heads->value_heads())[0].abs();
  const auto run = [&](std::int64_t first, std::int64_t rows, const std::vector<CachedPart>& parts,
                       const KeptStates& kept) {
    const at::NoGradGuard no_grad;
    const CachedRecurrence layout =
        recurrence_over(parts, kTaps, RecurrenceTables::kNone, at::kCPU);
    const auto own = [&](const at::Tensor& x) { return x.narrow(0, first, rows); };
    const DeltaRates found =
        cached_rates(own(rates).narrow(1, 0, heads->value_heads()),
                     own(rates).narrow(1, 3, heads->value_heads()), bias, scale);
    return cached_delta_rule(
        {cached_convolution(own(raw), weight, layout, kept), found.decays, found.steps}, *heads,
        layout, kept);
  };
  const auto empty = [&] {
    return KeptStates{at::full({3, heads->value_heads(), heads->key_size, heads->value_size}, NAN),
                      at::full({3, kTaps - 1, heads->columns()}, NAN)};
  };
  const at::Tensor whole = run(0, kRows, {{{0, kRows}, {0, kRows}, {}, 0, -1}}, empty());
  const at::Tensor beside = run(
      0, 2 * kRows,
      {{{0, kRows}, {0, kRows}, {}, 1, -1}, {{kRows, 2 * kRows}, {kRows, 2 * kRows}, {}, 0, -1}},
      empty());
  EXPECT_TRUE(at::equal(beside.narrow(0, 0, kRows), whole));
  for (const std::int64_t cut : {1, 2, 64, 149}) {
    const KeptStates kept = empty();
    const at::Tensor before = run(0, cut, {{{0, cut}, {0, cut}, {}, 2, -1}}, kept);
    const at::Tensor after =
        run(cut, kRows - cut, {{{0, kRows - cut}, {cut, kRows}, {{0, cut}}, 1, 2}}, kept);
    EXPECT_TRUE(at::equal(at::cat({before, after}), whole)) << cut;
  }
}

// softplus and sigmoid of libtorch, which are the definition.
TEST(CachedDeltaRule, HasTheRatesOfTheDefinition) {
  const at::Tensor x = at::linspace(-60, 60, 121).view({11, 11});
  const at::Tensor bias = at::linspace(-1, 1, 11);
  const at::Tensor scale = -at::linspace(0.5, 3, 11);
  const at::NoGradGuard no_grad;
  const DeltaRates found = cached_rates(x, x, bias, scale);
  const at::Tensor wide = x.to(at::kDouble);
  const at::Tensor decays = scale.to(at::kDouble) * at::log1p(at::exp(wide + bias.to(at::kDouble)));
  // Four roundings, the first of a sum below 64.
  EXPECT_LT(((found.decays - decays).abs() / (decays.abs() + 64)).max().item<double>(),
            4 * 0x1p-24);
  EXPECT_LT(largest_difference(found.steps, at::sigmoid(wide)), 4 * 0x1p-24);
}

}  // namespace
}  // namespace bipo
