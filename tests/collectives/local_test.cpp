// The communicators of one process, and the arrangement of ranks.
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <string>
#include <thread>

#include "collectives/device.hpp"
#include "collectives/foundation/content_hash.hpp"
#include "collectives/profile.hpp"
#include "collectives/self_communicator.hpp"
#include "collectives/topology.hpp"
#include "tests/collectives/communicator_suite.hpp"
#include "tests/support/errors.hpp"
#include "tests/support/thread_communicator.hpp"

namespace bipo {
namespace {

TEST(SelfCommunicator, PassesTheSuite) {
  SelfCommunicator self;
  EXPECT_EQ(self.size(), 1);
  testing::expect_communicator(self, at::kCPU);
}

class ThreadCommunicators : public ::testing::TestWithParam<int> {};

TEST_P(ThreadCommunicators, PassTheSuite) {
  run_as_threads(GetParam(),
                 [](Communicator& group) { testing::expect_communicator(group, at::kCPU); });
}

INSTANTIATE_TEST_SUITE_P(Sizes, ThreadCommunicators, ::testing::Values(1, 2, 3, 4, 8));

TEST(ThreadCommunicators, AFailingRankReleasesTheOthers) {
  EXPECT_THROW(run_as_threads(3,
                              [](Communicator& group) {
                                if (group.rank() == 1) {
                                  throw UserError("rank 1");
                                }
                                group.barrier();
                              }),
               UserError);
}

// The published 64-bit FNV-1a values of "" and "foobar".
TEST(ContentHash, IsFnv1a) {
  ContentHash hash;
  EXPECT_EQ(hash.value(), 0xcbf29ce484222325ULL);
  hash.add(std::string_view("foobar"));
  EXPECT_EQ(hash.value(), 0x85944171f73967e8ULL);
}

TEST(Topology, PlacesTpRanksSideBySide) {
  const Topology topology(12, 7, 2, std::nullopt, 2);  // 2 cells x 3 dp x 2 tp
  EXPECT_EQ(topology.dp(), 3);
  EXPECT_EQ(topology.cell(), 1);
  EXPECT_EQ(topology.dp_rank(), 0);
  EXPECT_EQ(topology.tp_rank(), 1);
  EXPECT_EQ(topology.to_string(), "12 ranks = 2 cells x 3 dp x 2 tp");
}

TEST(Topology, GroupsPartitionTheWorld) {
  for (const int tp : {1, 2, 4}) {
    for (int a = 0; a < 8; ++a) {
      for (int b = 0; b < 8; ++b) {
        const Topology first(8, a, tp, std::nullopt);
        const Topology second(8, b, tp, std::nullopt);
        EXPECT_EQ(first.tp_color() == second.tp_color(), first.dp_rank() == second.dp_rank());
        EXPECT_EQ(first.dp_color() == second.dp_color(), first.tp_rank() == second.tp_rank());
      }
    }
  }
}

TEST(Topology, RefusesWithTheWholeEquation) {
  EXPECT_THROW(Topology(6, 0, 4, std::nullopt), UserError);
  EXPECT_THROW(Topology(4, 0, 0, std::nullopt), UserError);
  testing::expect_parts(testing::error_of<UserError>([] { Topology(8, 0, 2, 3); }),
                        {"world = cells x dp x tp needs 1 x 3 x 2 = 6, but 8"});
}

TEST(Profile, CountsNestedWorkOnceAndOnlyWhileItIsTaken) {
  const auto wait = [](int milliseconds) {
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
  };
  const auto work = [&] {
    const WorkTimer head(Work::kHead);
    wait(20);
    {
      const WorkTimer inner(Work::kCollectives);
      wait(40);
    }
    wait(20);
  };
  take_profile(at::Device(at::kCPU));
  const auto begin = std::chrono::steady_clock::now();
  work();
  const std::chrono::duration<double> duration = std::chrono::steady_clock::now() - begin;
  wait(30);  // nobody's
  take_profile(std::nullopt);
  work();
  const double head = profiled_seconds()[static_cast<std::size_t>(Work::kHead)];
  const double collectives = profiled_seconds()[static_cast<std::size_t>(Work::kCollectives)];
  EXPECT_GE(head, 0.04);
  EXPECT_GE(collectives, 0.04);
  EXPECT_LE(head + collectives, duration.count());
  EXPECT_EQ(profiled_seconds()[static_cast<std::size_t>(Work::kProducts)], 0);
}

std::string told_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const c10::Error& error) {
    return message_of(error);
  }
  return "no error";
}

TEST(MessageOfLibtorch, SaysWhatToDoWhereADeviceHasNoMemoryLeft) {
  const std::string full =
      told_of([] { C10_THROW_ERROR(OutOfMemoryError, "CUDA out of memory. Tried 2 GiB."); });
  testing::expect_parts(full, {"CUDA out of memory. Tried 2 GiB.", "--micro-batch", "--tp"});
  EXPECT_EQ(told_of([] { C10_THROW_ERROR(ValueError, "another"); }), "another");
}

}  // namespace
}  // namespace bipo
