// The requirements on every communicator: inputs are small integers that differ by rank, so that
// each result is known exactly.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <vector>

#include "collectives/communicator.hpp"
#include "collectives/exact_sum.hpp"
#include "collectives/foundation/errors.hpp"
#include "collectives/tensor_parallel.hpp"

namespace bipo::testing {

inline at::TensorOptions on(at::Device device, at::ScalarType type) {
  return at::TensorOptions().dtype(type).device(device);
}

inline void expect_all_reduce(Communicator& group, at::Device device) {
  const std::int64_t n = group.size();
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kLong}) {
    for (const std::int64_t count : {0, 1, 7, 1000}) {
      const auto input = [&] {
        return (at::arange(count, on(device, type)) + 1) * (group.rank() + 1);
      };
      const at::Tensor base = at::arange(count, on(device, type)) + 1;
      const at::Tensor sum = input();
      group.all_reduce(sum, ReduceOp::kSum);
      EXPECT_TRUE(sum.equal(base * (n * (n + 1) / 2)));
      const at::Tensor largest = input();
      group.all_reduce(largest, ReduceOp::kMax);
      EXPECT_TRUE(largest.equal(base * n));
      const at::Tensor least = input();
      group.all_reduce(least, ReduceOp::kMin);
      EXPECT_TRUE(least.equal(base));
    }
  }
}

// Ranks hold 1 to n, as integers too large for a double to tell apart and as halves.
inline void expect_number_reductions(Communicator& group) {
  const std::int64_t n = group.size();
  constexpr std::int64_t kLarge = std::int64_t{1} << 60;
  const std::int64_t mine = kLarge + group.rank() + 1;
  EXPECT_EQ(all_reduced(mine, ReduceOp::kMax, group), kLarge + n);
  EXPECT_EQ(all_reduced(mine, ReduceOp::kMin, group), kLarge + 1);
  EXPECT_EQ(all_reduced(mine - kLarge, ReduceOp::kSum, group), n * (n + 1) / 2);
  const auto unsigned_mine = static_cast<std::uint64_t>(mine);
  EXPECT_EQ(all_reduced(unsigned_mine, ReduceOp::kMin, group), std::uint64_t{kLarge} + 1);
  const double half = 0.5 * (group.rank() + 1);
  EXPECT_EQ(all_reduced(half, ReduceOp::kMax, group), 0.5 * static_cast<double>(n));
  EXPECT_EQ(all_reduced(half, ReduceOp::kMin, group), 0.5);
  EXPECT_EQ(all_reduced(half, ReduceOp::kSum, group), 0.25 * static_cast<double>(n * (n + 1)));
  EXPECT_TRUE(holds_on_all(true, group));
  EXPECT_FALSE(holds_on_all(group.rank() != n - 1, group));
}

inline void expect_broadcast_and_gather(Communicator& group, at::Device device) {
  for (int root = 0; root < group.size(); ++root) {
    const at::Tensor value = at::full({5}, group.rank() * 10, on(device, at::kLong));
    group.broadcast(value, root);
    EXPECT_TRUE(value.eq(root * 10).all().item<bool>());
  }
  const at::Tensor gathered =
      group.all_gather(at::full({2, 3}, group.rank() + 1, on(device, at::kFloat)));
  ASSERT_EQ(gathered.sizes(), (std::vector<std::int64_t>{group.size(), 2, 3}));
  for (int rank = 0; rank < group.size(); ++rank) {
    EXPECT_TRUE(gathered[rank].eq(rank + 1).all().item<bool>());
  }
  group.barrier();
}

inline void expect_refusals(Communicator& group, at::Device device) {
  const at::Tensor strided = at::zeros({4, 4}, on(device, at::kFloat)).t().narrow(0, 0, 2);
  EXPECT_THROW(group.all_reduce(strided, ReduceOp::kSum), BugError);
  EXPECT_THROW(group.all_reduce(at::zeros({2}, on(device, at::kHalf)), ReduceOp::kSum), BugError);
  EXPECT_THROW(group.broadcast(at::zeros({2}, on(device, at::kFloat)), group.size()), BugError);
}

// f is the identity forward and sums gradients backward; g sums forward and is the identity
// backward.
inline void expect_tensor_parallel_pair(Communicator& group, at::Device device) {
  const double ranks_sum = group.size() * (group.size() + 1) / 2.0;
  const at::Tensor x = at::tensor({2.0, 3.0}, on(device, at::kDouble)).set_requires_grad(true);
  const at::Tensor y = copy_to_tensor_parallel(x, group);
  EXPECT_TRUE(y.equal(x));
  (y * (group.rank() + 1)).sum().backward();
  EXPECT_TRUE(x.grad().eq(ranks_sum).all().item<bool>());

  const at::Tensor part = at::tensor({1.0, 10.0}, on(device, at::kDouble)) * (group.rank() + 1);
  const at::Tensor leaf = part.clone().set_requires_grad(true);
  const at::Tensor sum = reduce_from_tensor_parallel(leaf * 1, group);
  EXPECT_TRUE(sum.equal(at::tensor({1.0, 10.0}, on(device, at::kDouble)) * ranks_sum));
  EXPECT_TRUE(leaf.detach().equal(part));
  (sum * 5).sum().backward();
  EXPECT_TRUE(leaf.grad().eq(5).all().item<bool>());
}

// 24 contributions whose scales spread over e^(+-9), the same set however many ranks share it.
inline std::vector<at::Tensor> contributions_of(int rank, int size, std::int64_t n,
                                                at::Device device) {
  std::vector<at::Tensor> mine;
  for (int i = 0; i < 24; ++i) {
    if (i % size == rank) {
      const at::Tensor angle = at::arange(n, at::kDouble) * (i + 1) * 0.37;
      mine.push_back((angle.sin() * std::exp(i * 0.75 - 9)).to(at::kFloat).to(device));
    }
  }
  return mine;
}

// Equal, to the bit, to the sum by one rank, and to the real sum within the fixed point's step.
inline void expect_exact_sum(Communicator& group, at::Device device) {
  constexpr std::int64_t kLength = 101;
  const auto all = contributions_of(0, 1, kLength, at::kCPU);
  at::Tensor truth = at::zeros({kLength}, at::kDouble);
  double largest = 0;
  for (const at::Tensor& term : all) {
    truth += term.to(at::kDouble);
    largest = std::max(largest, term.abs().max().item<double>());
  }
  const at::Tensor sum = exact_sum(contributions_of(group.rank(), group.size(), kLength, device),
                                   kLength, device, 24, group);
  EXPECT_LT((sum - truth).abs().max().item<double>(), 24 * largest * std::ldexp(1.0, -50));
  // Integers below 2^62 leave no room for an order to show: recompute them in another way.
  int exponent = 0;
  std::frexp(largest, &exponent);
  const int shift = 62 - 5 - exponent;
  for (std::int64_t i = 0; i < kLength; ++i) {
    std::int64_t total = 0;
    for (auto term = all.rbegin(); term != all.rend(); ++term) {
      total += std::llrint(std::ldexp(static_cast<double>((*term)[i].item<float>()), shift));
    }
    EXPECT_EQ(sum[i].item<double>(), std::ldexp(static_cast<double>(total), -shift)) << i;
  }
}

inline void expect_exact_sum_edges(Communicator& group, at::Device device) {
  EXPECT_TRUE(exact_sum({}, 3, device, 1, group).equal(at::zeros({3}, at::kDouble)));
  // The largest magnitudes that headroom must hold, all of one sign.
  const at::Tensor big = at::full({2}, std::numeric_limits<float>::max(), on(device, at::kFloat));
  const at::Tensor sum = exact_sum({big, big}, 2, device, 2 * group.size(), group);
  const double expected =
      2.0 * group.size() * static_cast<double>(std::numeric_limits<float>::max());
  EXPECT_EQ(sum[0].item<double>(), expected);
  // One rank's NaN or infinity is everyone's NaN.
  const auto sum_with = [&](double odd, int of_rank) {
    const double value = group.rank() == of_rank ? odd : 1.0;
    return exact_sum({at::full({2}, value, on(device, at::kFloat))}, 2, device, group.size(),
                     group);
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(sum_with(nan, group.size() - 1).isnan().all().item<bool>());
  EXPECT_TRUE(sum_with(std::numeric_limits<double>::infinity(), 0).isnan().all().item<bool>());
  EXPECT_TRUE(sum_with(2.0, 0).equal(at::full({2}, group.size() + 1.0, at::kDouble)));
}

// Vectors at once have the bits of one after the other.
inline void expect_exact_sums(Communicator& group, at::Device device) {
  constexpr std::int64_t kLength = 101;
  std::vector<at::Tensor> first = contributions_of(group.rank(), group.size(), kLength, device);
  std::vector<at::Tensor> second;
  std::vector<at::Tensor> both;
  for (const at::Tensor& term : first) {
    second.push_back(term.flip(0) * -3000);
    both.push_back(at::stack({first[second.size() - 1], second.back()}));
  }
  const at::Tensor none = at::empty({0, 2, kLength}, on(device, at::kFloat));
  const at::Tensor sums = exact_sums(both.empty() ? none : at::stack(both), 24, group).cpu();
  EXPECT_TRUE(sums[0].equal(exact_sum(first, kLength, device, 24, group)));
  EXPECT_TRUE(sums[1].equal(exact_sum(second, kLength, device, 24, group)));
  // The last rank has one contribution, and the others have none.
  const auto sum_with = [&](double value) {
    const at::Tensor term = at::ones({1, 2, kLength}, on(device, at::kFloat));
    term[0][1][0] = value;
    return exact_sums(group.rank() == group.size() - 1 ? term : none, 1, group).cpu();
  };
  EXPECT_TRUE(sum_with(0)[0].eq(1).all().item<bool>());
  for (const double odd :
       {std::numeric_limits<double>::quiet_NaN(), -std::numeric_limits<double>::infinity()}) {
    const at::Tensor sum = sum_with(odd);
    EXPECT_TRUE(sum[0].eq(1).all().item<bool>());
    EXPECT_TRUE(sum[1].isnan().all().item<bool>());
  }
  EXPECT_TRUE(exact_sums(at::zeros({3, 1, 4}, on(device, at::kDouble)), 3 * group.size(), group)
                  .cpu()
                  .eq(0)
                  .all()
                  .item<bool>());
}

inline void expect_communicator(Communicator& group, at::Device device) {
  expect_all_reduce(group, device);
  if (device.is_cpu()) {
    expect_number_reductions(group);
  }
  expect_broadcast_and_gather(group, device);
  expect_refusals(group, device);
  expect_tensor_parallel_pair(group, device);
  expect_exact_sum(group, device);
  expect_exact_sum_edges(group, device);
  expect_exact_sums(group, device);
}

}  // namespace bipo::testing
