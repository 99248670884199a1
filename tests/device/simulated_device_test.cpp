// What the simulated device finds: each mistake that it is there for.
#include "tests/support/simulated_device.hpp"

#include <ATen/ATen.h>
#include <ATen/core/CachingHostAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>
#include <vector>

#include "collectives/device.hpp"
#include "collectives/device_graph.hpp"

namespace bipo::testing {
namespace {

at::TensorOptions on_device(int index = 0) {
  return at::TensorOptions().dtype(at::kFloat).device(simulated_device(index));
}

at::Tensor pinned(const std::vector<float>& values) {
  return at::tensor(values, at::kFloat).pin_memory();
}

c10::impl::VirtualGuardImpl guard_of_device() {
  return c10::impl::VirtualGuardImpl(c10::kPrivateUse1);
}

c10::Stream new_stream() {
  return guard_of_device().getNewStream(simulated_device());
}

TEST(SimulatedDevice, ComputesAsTheCpu) {
  const at::Tensor x = at::randn({5, 7});
  const at::Tensor y = at::randn({7, 3});
  const at::Tensor product = at::mm(x.to(simulated_device()), y.to(simulated_device()));
  EXPECT_EQ(product.device(), simulated_device());
  EXPECT_TRUE(product.cpu().equal(at::mm(x, y)));
}

TEST(SimulatedDevice, NewMemoryIsNotZero) {
  EXPECT_TRUE(at::isnan(at::empty({4}, on_device())).all().item<bool>());
}

TEST(SimulatedDevice, CountsSumsInNoOrder) {
  const auto count_of = [](const std::vector<std::int64_t>& rows) {
    const std::int64_t before = device_kernels()[kUnorderedSum];
    const at::Tensor index = at::tensor(rows, at::kLong).to(simulated_device());
    at::zeros({4}, on_device()).index_add_(0, index, at::ones({2}, on_device()));
    return device_kernels()[kUnorderedSum] - before;
  };
  EXPECT_EQ(count_of({0, 3}), 0);
  EXPECT_EQ(count_of({3, 3}), 1);
}

// --- graphs --------------------------------------------------------------------------------------

std::unique_ptr<DeviceGraph> recorded(const std::function<void()>& work) {
  return recorder_of(simulated_device())->record(simulated_device(), work);
}

TEST(SimulatedGraph, AReplayReadsWhatItsMemoryHoldsByThen) {
  const at::Tensor x = at::full({3}, 2.0, on_device());
  const at::Tensor sum = at::zeros({}, on_device());
  at::Tensor result;
  const auto graph = recorded([&] {
    const at::Tensor row = at::arange(1, 4, x.options());
    sum.add_(1);
    result = at::cat({at::mm(x.unsqueeze(0), row.unsqueeze(1)).view({-1}), row.mul_(x)});
  });
  // Nothing has run.
  EXPECT_TRUE(at::isnan(result).all().item<bool>());
  EXPECT_EQ(sum.item<float>(), 0);
  for (const float value : {2.0F, 5.0F}) {
    x.fill_(value);
    const std::int64_t before = device_counts().kernels;
    graph->replay();
    EXPECT_EQ(device_counts().kernels, before + 1);
    EXPECT_TRUE(result.cpu().equal(at::tensor({6.0F, 1.0F, 2.0F, 3.0F}) * value));
  }
  EXPECT_EQ(sum.item<float>(), 2);
  // Another tensor of that name is not what it reads.
  const at::Tensor stale = x.clone().fill_(7);
  graph->replay();
  EXPECT_EQ(result[0].item<float>(), 30);
}

TEST(SimulatedGraph, AReplayLeavesNothingOfAnothersMemory) {
  const at::Tensor x = at::ones({2}, on_device());
  at::Tensor doubled;
  at::Tensor tripled;
  const auto first = recorded([&] { doubled = x * 2; });
  const auto second = recorded([&] { tripled = x * 3; });
  first->replay();
  EXPECT_EQ(doubled[0].item<float>(), 2);
  second->replay();
  EXPECT_EQ(tripled[1].item<float>(), 3);
  EXPECT_TRUE(at::isnan(doubled).all().item<bool>());
}

TEST(SimulatedGraph, WhatCudaForbidsInARecordingThrows) {
  const at::Tensor x = at::ones({2}, on_device());
  c10::Event event(c10::kPrivateUse1);
  event.record(guard_of_device().getStream(simulated_device()));
  const std::vector<std::function<void()>> forbidden = {
      [&] { at::zeros({2}).to(simulated_device()); },
      [&] { x.cpu(); },
      [&] { x[0].item<float>(); },
      [&] { at::nonzero(x); },
      [&] { synchronize_device(simulated_device()); },
      [&] { event.synchronize(); },
      [&] { event.block(new_stream()); },
      [&] { run_on_stream(x, [](const at::Tensor&) {}); }};
  for (std::size_t i = 0; i < forbidden.size(); ++i) {
    EXPECT_THROW(recorded([&] {
                   x.add_(1);
                   forbidden[i]();
                 }),
                 c10::Error)
        << i;
  }
  EXPECT_EQ(x[0].item<float>(), 1);  // what was recorded until then has not run
}

// A replay is work of the current stream: its memory is used there, in order.
TEST(SimulatedGraph, AReplayOnAnotherStreamWaitsForTheWriter) {
  const at::Tensor x = at::ones({2}, on_device());
  at::Tensor doubled;
  const auto graph = recorded([&] { doubled = x * 2; });
  const c10::StreamGuard other(new_stream());
  EXPECT_THROW(graph->replay(), c10::Error);
}

// --- its memory ----------------------------------------------------------------------------------

TEST(SimulatedDeviceDeathTest, TheHostCannotReadItsMemory) {
  const at::Tensor x = at::zeros({8}, on_device());
  EXPECT_EXIT(std::_Exit(static_cast<int>(x.const_data_ptr<float>()[2])),
              ::testing::ExitedWithCode(77),
              "the host touched byte 8 of device memory of 32 bytes");
}

TEST(SimulatedDeviceDeathTest, TheHostCannotWriteItsMemory) {
  const at::Tensor x = at::zeros({8}, on_device());
  EXPECT_EXIT(x.mutable_data_ptr<float>()[0] = 1, ::testing::ExitedWithCode(77),
              "the host touched byte 0");
}

TEST(SimulatedDevice, ArgumentsOnTwoDevicesThrow) {
  const at::Tensor x = at::zeros({8}, on_device());
  EXPECT_THROW(x + at::zeros({8}), c10::Error);
  EXPECT_THROW(x.index_select(0, at::tensor({1})), c10::Error);
  EXPECT_THROW(x + at::zeros({8}, on_device(1)), c10::Error);
  EXPECT_NO_THROW(x + at::scalar_tensor(2));
}

TEST(SimulatedDevice, AnAsynchronousCopyToTheHostArrivesAtASynchronisation) {
  const at::Tensor x = at::full({3}, 2.0, on_device());
  const at::Tensor host = pinned({0, 0, 0});
  host.copy_(x, /*non_blocking=*/true);
  EXPECT_TRUE(std::isnan(host[1].item<float>()));
  c10::Event done(c10::kPrivateUse1);
  done.record(guard_of_device().getStream(simulated_device()));
  done.synchronize();
  EXPECT_EQ(host[1].item<float>(), 2);
}

TEST(SimulatedDevice, AnEventBeforeTheCopyDoesNotBringIt) {
  const at::Tensor x = at::full({3}, 2.0, on_device());
  const at::Tensor host = pinned({0, 0, 0});
  c10::Event early(c10::kPrivateUse1);
  early.record(guard_of_device().getStream(simulated_device()));
  host.copy_(x, /*non_blocking=*/true);
  early.synchronize();
  EXPECT_TRUE(std::isnan(host[1].item<float>()));
}

TEST(SimulatedDevice, ABlockingCopyBringsTheEarlierOnes) {
  const at::Tensor x = at::full({3}, 2.0, on_device());
  const at::Tensor host = pinned({0, 0, 0});
  host.copy_(x, /*non_blocking=*/true);
  EXPECT_EQ(x.sum().item<float>(), 6);
  EXPECT_EQ(host[2].item<float>(), 2);
}

TEST(SimulatedDevice, TheSourceOfAnAsynchronousCopyMustStay) {
  const at::Tensor host = pinned({1, 2, 3});
  const at::Tensor x = at::empty({3}, on_device());
  x.copy_(host, /*non_blocking=*/true);
  host[0] = 7;
  EXPECT_THROW(x.cpu(), c10::Error);
  x.copy_(host, /*non_blocking=*/true);
  EXPECT_EQ(x.cpu()[0].item<float>(), 7);
  host[0] = 8;
  EXPECT_NO_THROW(x.cpu());
}

TEST(SimulatedDevice, AReadBeforeItsEventThrows) {
  const at::Tensor x = at::full({3}, 2.0, on_device());
  const c10::Stream other = new_stream();
  {
    const c10::StreamGuard guard(other);
    EXPECT_THROW(x + 1, c10::Error);
  }
  c10::Event written(c10::kPrivateUse1);
  written.record(guard_of_device().getStream(simulated_device()));
  written.block(other);
  const c10::StreamGuard guard(other);
  EXPECT_EQ((x + 1).sum().item<float>(), 9);
}

TEST(SimulatedDevice, AWriteWhileAnotherStreamReadsThrows) {
  const at::Tensor x = at::full({3}, 2.0, on_device());
  const c10::Stream other = new_stream();
  c10::Event written(c10::kPrivateUse1);
  written.record(guard_of_device().getStream(simulated_device()));
  written.block(other);
  c10::Event read(c10::kPrivateUse1);
  {
    const c10::StreamGuard guard(other);
    const at::Tensor copy = x + 1;
    read.record(other);
  }
  EXPECT_THROW(x.zero_(), c10::Error);
  read.block(guard_of_device().getStream(simulated_device()));
  EXPECT_NO_THROW(x.zero_());
}

TEST(SimulatedDevice, CountsWhatItIsAsked) {
  const DeviceCounts before = device_counts();
  const at::Tensor x = at::ones({4, 4}).to(simulated_device());  // 1 copy, 1 wait, 1 allocation
  const at::Tensor y = (x + x).transpose(0, 1);                  // 1 kernel, 1 allocation
  EXPECT_EQ(y.sum().item<float>(), 32);  // 1 kernel, 1 scalar, 1 wait, 1 allocation
  y.cpu();                               // 1 copy, 1 wait
  const DeviceCounts asked = device_counts() - before;
  EXPECT_EQ(asked.kernels, 2);
  EXPECT_GE(device_kernels().at("aten::add"), 1);
  EXPECT_EQ(asked.copies_to_device, 1);
  EXPECT_EQ(asked.copies_to_host, 1);
  EXPECT_EQ(asked.scalars_to_host, 1);
  EXPECT_EQ(asked.waits, 3);
  EXPECT_EQ(asked.allocations, 3);
}

TEST(SimulatedDevice, PinnedAsynchronousCopiesDoNotWait) {
  const at::Tensor host = pinned({1, 2, 3});
  const DeviceCounts before = device_counts();
  const at::Tensor x = host.to(simulated_device(), at::kFloat, /*non_blocking=*/true);
  EXPECT_EQ((device_counts() - before).waits, 0);
  const at::Tensor pageable = at::ones({3});
  pageable.to(simulated_device(), at::kFloat, /*non_blocking=*/true);
  EXPECT_EQ((device_counts() - before).waits, 1);
}

TEST(SimulatedDevice, WhatIsUncountedIsNot) {
  const DeviceCounts before = device_counts();
  {
    const Uncounted uncounted;
    at::ones({2}, on_device()).sum().item<float>();
  }
  const DeviceCounts asked = device_counts() - before;
  EXPECT_EQ(asked.kernels + asked.waits + asked.allocations, 0);
}

TEST(SimulatedDevice, MemoryHasALimitAndAPeak) {
  const std::int64_t before = device_bytes_in_use(2);
  c10::getDeviceAllocator(c10::kPrivateUse1)->resetPeakStats(2);
  { const at::Tensor x = at::empty({256}, on_device(2)); }
  EXPECT_EQ(device_bytes_in_use(2), before);
  EXPECT_EQ(device_bytes_at_peak(2), before + 1024);
  set_device_memory(before + 4096);
  EXPECT_EQ(c10::getDeviceAllocator(c10::kPrivateUse1)->getMemoryInfo(2).first, 4096U);
  EXPECT_THROW(at::empty({2048}, on_device(2)), c10::OutOfMemoryError);
  set_device_memory(std::int64_t{1} << 40);
}

}  // namespace
}  // namespace bipo::testing
