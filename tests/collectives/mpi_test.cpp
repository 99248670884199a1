// The communicator suite over MPI (and over NCCL where every rank has a GPU), under mpirun with
// exactly the world size that the first argument names.
#include <ATen/detail/CUDAHooksInterface.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <numeric>
#include <string>
#include <vector>

#include "collectives/communicator.hpp"
#include "collectives/device.hpp"
#include "collectives/nccl_communicator.hpp"
#include "collectives/session.hpp"
#include "tests/collectives/communicator_suite.hpp"

namespace bipo {
namespace {

Session* session = nullptr;

TEST(MpiCommunicator, WorldPassesTheSuite) {
  const Ranks ranks = session->make_ranks(
      Topology(session->size(), session->rank(), 1, std::nullopt), at::Device(at::kCPU));
  ASSERT_EQ(ranks.world->backend(), session->size() == 1 ? "self" : "mpi");
  testing::expect_communicator(*ranks.world, at::kCPU);
  testing::expect_communicator(*ranks.dp, at::kCPU);
}

TEST(MpiCommunicator, GroupsOfTwoPassTheSuite) {
  if (session->size() % 2 != 0) {
    return;  // groups of two need an even world; sizes 2 and 4 run this
  }
  const Ranks ranks = session->make_ranks(
      Topology(session->size(), session->rank(), 2, std::nullopt), at::Device(at::kCPU));
  EXPECT_EQ(ranks.tp->size(), 2);
  EXPECT_EQ(ranks.tp->rank(), session->rank() % 2);
  EXPECT_EQ(ranks.dp->size(), session->size() / 2);
  testing::expect_communicator(*ranks.tp, at::kCPU);
  testing::expect_communicator(*ranks.dp, at::kCPU);
}

TEST(Session, OneRanksFailureIsEveryonesOnce) {
  const int culprit = session->size() - 1;
  try {
    session->together([&] {
      if (session->rank() == culprit) {
        throw UserError("the file is missing");
      }
    });
    FAIL() << "rank " << session->rank() << " did not hear of it";
  } catch (const AgreedFailure& failure) {
    EXPECT_EQ(failure.exit_code(), kExitBadInput);
    EXPECT_NE(std::string(failure.what()).find("the file is missing"), std::string::npos);
  }
  session->together([] {});
}

TEST(Session, KnowsItsNode) {
  EXPECT_EQ(session->local_size(), session->size());
  EXPECT_EQ(session->local_rank(), session->rank());
  EXPECT_EQ(session->hosts().size(), 1U);
}

// The cases of these two suites need GPUs: one for each rank, and one for two ranks.

TEST(NcclCommunicator, EveryRankPassesTheSuiteOnItsGpu) {
  if (at::detail::getCUDAHooks().deviceCount() < session->local_size()) {
    FAIL()
        << "fewer CUDA devices than ranks: this case must only be run where they are (label gpu)";
  }
  const at::Device device(at::kCUDA, static_cast<at::DeviceIndex>(session->local_rank()));
  select_device(device);
  const Ranks host = session->make_ranks(
      Topology(session->size(), session->rank(), 1, std::nullopt), at::Device(at::kCPU));
  std::vector<int> members(static_cast<std::size_t>(session->size()));
  std::iota(members.begin(), members.end(), 0);
  const auto nccl = make_nccl_communicator(*host.world, nullptr, members);
  EXPECT_EQ(nccl->backend(), "nccl");
  testing::expect_communicator(*nccl, device);
}

TEST(SharedDevice, IsRefusedOnEveryRank) {
  if (at::detail::getCUDAHooks().deviceCount() == 0 || session->size() != 2) {
    FAIL() << "this case must only be run by two ranks where a CUDA device is (label gpu)";
  }
  const at::Device device(at::kCUDA, 0);
  select_device(device);
  try {
    session->make_ranks(Topology(2, session->rank(), 1, std::nullopt), device);
    FAIL() << "rank " << session->rank() << " has a communicator";
  } catch (const AgreedFailure& failure) {
    EXPECT_EQ(failure.exit_code(), kExitBadInput);
    EXPECT_NE(std::string(failure.what()).find("on the same CUDA device"), std::string::npos);
  }
}

}  // namespace
}  // namespace bipo

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  bipo::Session session;
  bipo::session = &session;
  if (argc != 2 || std::atoi(argv[1]) != session.size()) {
    std::cerr << "world of " << session.size() << ", asked for "
              << (argc > 1 ? argv[1] : "(nothing)") << "\n";
    return 1;
  }
  const int mine = RUN_ALL_TESTS();
  const bipo::Ranks ranks = session.make_ranks(
      bipo::Topology(session.size(), session.rank(), 1, std::nullopt), at::Device(at::kCPU));
  return static_cast<int>(
      bipo::all_reduced(std::int64_t{mine}, bipo::ReduceOp::kMax, *ranks.world));
}
