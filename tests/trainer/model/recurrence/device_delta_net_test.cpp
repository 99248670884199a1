// The kernels of the gated delta net, compiled by the C++ compiler, against tensor operations.
#include "trainer/model/recurrence/device_delta_net.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "tests/support/host_kernels.hpp"

namespace bipo {
namespace {

constexpr std::int64_t kNetTaps = 4;
constexpr double kNetEpsilon = 1e-5;

// A beginning shared by two prompts with two answers each, one of them shorter than the
// convolution; prompts and answers longer than a chunk; and a sequence of its own.
std::vector<SequencePart> parts_of_net() {
  const Range shared{0, 70};
  const Range first{70, 72};
  const Range second{139, 144};
  const Range other{153, 156};
  return {{shared, {}},
          {first, {shared}},
          {{72, 73}, {shared, first}},
          {{73, 139}, {shared, first}},
          {second, {shared}},
          {{144, 153}, {shared, second}},
          {other, {}},
          {{156, 160}, {other}},
          {{160, 162}, {other}}};
}

constexpr std::int64_t kNetRows = 162;

// Two heads of values share the first head of keys, the third has one of its own.
DeviceDeltaNet net_of(at::ScalarType type, RecurrenceTables tables) {
  const auto heads = std::make_shared<DeltaHeads>(DeltaHeads{20, 36, 2, {0, 0, 1}});
  set_head_tables(*heads, at::kCPU);
  at::manual_seed(4);
  const auto numbers = [&](at::IntArrayRef shape) { return at::randn(shape, at::kDouble); };
  DeviceDeltaNet net;
  net.heads = heads;
  net.layout = std::make_shared<RecurrentLayout>(
      recurrence_over(parts_of_net(), kNetTaps, tables, at::kCPU));
  net.taps = numbers({kNetTaps, heads->columns()}).to(type);
  net.decay_bias = numbers({heads->value_heads()}).to(type);
  net.decay = -numbers({heads->value_heads()}).abs().to(type);
  net.norm = numbers({heads->value_size}).to(type);
  net.epsilon = kNetEpsilon;
  return net;
}

// The same composed of tensor operations, in float64.
at::Tensor composed_net(const at::Tensor& projected, const at::Tensor& gates,
                        const at::Tensor& rows) {
  const DeviceDeltaNet net = net_of(at::kDouble, RecurrenceTables::kPadded);
  const std::int64_t columns = net.heads->columns();
  const std::int64_t count = net.heads->value_heads();
  const DeltaOperands operands{
      short_convolution(projected.narrow(1, 0, columns), net.taps, net.layout),
      net.decay * at::softplus(projected.narrow(1, columns + count, count) + net.decay_bias),
      at::sigmoid(projected.narrow(1, columns, count))};
  const at::Tensor result = gated_delta_rule(operands, net.heads, net.layout).index_select(0, rows);
  const at::Tensor by_head = result.view({rows.size(0), count, net.heads->value_size});
  const at::Tensor normed =
      by_head / at::sqrt((by_head * by_head).mean(-1, true) + kNetEpsilon) * net.norm;
  return normed.reshape({rows.size(0), -1}) * at::silu(gates);
}

at::Tensor all_rows() {
  return at::arange(kNetRows, at::kLong);
}

struct NetOutcome {
  at::Tensor value;
  at::Tensor d_projected;
  at::Tensor d_gates;  // undefined where the gates are columns of the former
};

// `net` takes leaves: projected, and gates where they are apart.
template <class Net>
NetOutcome outcome_of(const Net& net, const at::Tensor& projected, const at::Tensor& gates) {
  const at::Tensor leaf = projected.detach().clone().set_requires_grad(true);
  const at::Tensor gates_leaf =
      gates.defined() ? gates.detach().clone().set_requires_grad(true) : at::Tensor();
  const at::Tensor value = net(leaf, gates_leaf);
  value.backward(
      at::arange(value.numel(), at::kDouble).sin().view(value.sizes()).to(value.scalar_type()));
  return {value.detach().to(at::kDouble), leaf.grad().to(at::kDouble),
          gates.defined() ? gates_leaf.grad().to(at::kDouble) : at::Tensor()};
}

void expect_close(const at::Tensor& found, const at::Tensor& exact, double tolerance,
                  const char* what) {
  ASSERT_EQ(found.sizes(), exact.sizes()) << what;
  EXPECT_LE((found - exact).abs().max().item<double>(),
            tolerance * exact.abs().max().item<double>())
      << what;
}

class DeviceDeltaNetTest : public ::testing::Test {
 protected:
  DeviceDeltaNetTest() { register_kernels(at::kCPU, &kernels_); }
  ~DeviceDeltaNetTest() override { register_kernels(at::kCPU, nullptr); }

  // Numbers that float32 holds.
  static at::Tensor numbers(std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
    at::manual_seed(seed);
    return at::randn({rows, columns}).to(at::kDouble);
  }

 private:
  testing::HostKernels kernels_;
};

// Sums of some hundred products each, one behind the other along a sequence.
double tolerance_of(at::ScalarType type) {
  return type == at::kDouble ? 1e-11 : 300 * std::numeric_limits<float>::epsilon();
}

TEST_F(DeviceDeltaNetTest, IsTheCompositionOfTensorOperations) {
  for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
    const DeviceDeltaNet net = net_of(type, RecurrenceTables::kCompiled);
    const std::int64_t gates = net.heads->value_columns();
    const std::int64_t others = net.heads->columns() + 2 * net.heads->value_heads();
    const at::Tensor x = numbers(kNetRows, others + gates, 5);
    const NetOutcome exact = outcome_of(
        [&](const at::Tensor& leaf, const at::Tensor&) {
          return composed_net(leaf.narrow(1, 0, others), leaf.narrow(1, others, gates), all_rows());
        },
        x, at::Tensor());
    const NetOutcome found = outcome_of(
        [&](const at::Tensor& leaf, const at::Tensor&) { return device_delta_net(leaf, net); },
        x.to(type), at::Tensor());
    expect_close(found.value, exact.value, tolerance_of(type), "value");
    expect_close(found.d_projected, exact.d_projected, tolerance_of(type), "gradient");
  }
}

TEST_F(DeviceDeltaNetTest, OfSomeRowsIsThatOfAll) {
  const at::Tensor rows = at::tensor({1, 69, 71, 72, 100, 138, 152, 157, 161}, at::kLong);
  for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
    const DeviceDeltaNet net = net_of(type, RecurrenceTables::kCompiled);
    const std::int64_t others = net.heads->columns() + 2 * net.heads->value_heads();
    const at::Tensor x = numbers(kNetRows, others, 6);
    const at::Tensor gates = numbers(rows.size(0), net.heads->value_columns(), 7);
    const NetOutcome exact =
        outcome_of([&](const at::Tensor& leaf,
                       const at::Tensor& of_rows) { return composed_net(leaf, of_rows, rows); },
                   x, gates);
    const NetOutcome found = outcome_of(
        [&](const at::Tensor& leaf, const at::Tensor& of_rows) {
          return device_delta_net(leaf, of_rows, rows, net);
        },
        x.to(type), gates.to(type));
    expect_close(found.value, exact.value, tolerance_of(type), "value");
    expect_close(found.d_projected, exact.d_projected, tolerance_of(type), "gradient");
    expect_close(found.d_gates, exact.d_gates, tolerance_of(type), "gradient of the gates");
  }
}

// The same numbers, rounded once.
TEST_F(DeviceDeltaNetTest, NarrowResultsAreRounded) {
  DeviceDeltaNet net = net_of(at::kFloat, RecurrenceTables::kCompiled);
  const at::Tensor x =
      numbers(kNetRows,
              net.heads->columns() + 2 * net.heads->value_heads() + net.heads->value_columns(), 8)
          .to(at::kFloat);
  const at::Tensor wide = device_delta_net(x, net);
  net.narrow = true;
  EXPECT_TRUE(device_delta_net(x, net).equal(wide.to(at::kBFloat16)));
}

// Decays so strong that the inverse of their product overflows.
TEST_F(DeviceDeltaNetTest, SurvivesStrongDecays) {
  DeviceDeltaNet net = net_of(at::kFloat, RecurrenceTables::kCompiled);
  net.decay = net.decay * 1000;
  const at::Tensor x =
      numbers(kNetRows,
              net.heads->columns() + 2 * net.heads->value_heads() + net.heads->value_columns(), 9)
          .to(at::kFloat);
  const NetOutcome found = outcome_of(
      [&](const at::Tensor& leaf, const at::Tensor&) { return device_delta_net(leaf, net); }, x,
      at::Tensor());
  EXPECT_TRUE(at::isfinite(found.value).all().item<bool>());
  EXPECT_TRUE(at::isfinite(found.d_projected).all().item<bool>());
}

}  // namespace
}  // namespace bipo
