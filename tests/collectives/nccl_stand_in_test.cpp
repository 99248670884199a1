// NcclCommunicator against a stand-in for NCCL: what it does when all goes well, and when something
// fails.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "collectives/device.hpp"
#include "collectives/foundation/errors.hpp"
#include "collectives/nccl_communicator.hpp"
#include "collectives/watch/watch.hpp"
#include "tests/support/nccl_stand_in/stand_in.hpp"
#include "tests/support/thread_communicator.hpp"

namespace bipo {
namespace {

namespace stand_in = testing::stand_in;
using stand_in::on_cuda;
using stand_in::on_host;

void pause() {
  std::this_thread::sleep_for(std::chrono::milliseconds(40));
}

std::vector<int> ranks_up_to(int size) {
  std::vector<int> ranks;
  for (int rank = 0; rank < size; ++rank) {
    ranks.push_back(rank);
  }
  return ranks;
}

// Runs body(communicator, rank) on threads with a communicator over all of them.
void run_over_nccl(int size, const std::function<void(Communicator& nccl, int rank)>& body) {
  run_as_threads(size, [&](Communicator& host) {
    stand_in::set_rank(host.rank());
    const auto nccl = make_nccl_communicator(host, nullptr, ranks_up_to(size));
    body(*nccl, host.rank());
  });
}

// Expects that every communicator ended in the given way, and that no rule of NCCL was broken.
void expect_ends(int destroyed, int aborted) {
  const stand_in::Ends ends = stand_in::ends();
  EXPECT_EQ(ends.destroyed, destroyed);
  EXPECT_EQ(ends.aborted, aborted);
  EXPECT_EQ(ends.open, 0);
  EXPECT_EQ(ends.events, 0);
  EXPECT_EQ(stand_in::complaints(), std::vector<std::string>());
}

// Returns what the first rank to fail says; "" if none does.
std::string failure_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const EnvironmentError& error) {
    return error.what();
  }
  return "";
}

class NcclStandIn : public ::testing::TestWithParam<int> {};

TEST_P(NcclStandIn, ReducesBroadcastsAndGathers) {
  stand_in::begin({});
  run_over_nccl(GetParam(), [](Communicator& nccl, int rank) {
    const int size = nccl.size();
    const at::Tensor sum = on_cuda(at::full({3}, rank + 1.0, at::kDouble));
    nccl.all_reduce(sum, ReduceOp::kSum);
    EXPECT_EQ(on_host(sum)[2].item<double>(), size * (size + 1) / 2.0);
    const at::Tensor extremes = on_cuda(at::full({2}, rank, at::kLong));
    nccl.all_reduce(extremes, ReduceOp::kMax);
    EXPECT_EQ(on_host(extremes)[0].item<std::int64_t>(), size - 1);
    nccl.all_reduce(extremes, ReduceOp::kMin);
    EXPECT_EQ(on_host(extremes)[0].item<std::int64_t>(), size - 1);
    const at::Tensor of_root = on_cuda(at::full({4}, rank * 1.5F, at::kFloat));
    nccl.broadcast(of_root, size - 1);
    EXPECT_EQ(on_host(of_root)[3].item<float>(), (size - 1) * 1.5F);
    const at::Tensor all = on_host(nccl.all_gather(on_cuda(at::full({2}, rank, at::kByte))));
    for (int other = 0; other < size; ++other) {
      EXPECT_EQ(all[other][1].item<int>(), other);
    }
    nccl.barrier();
  });
  expect_ends(GetParam(), 0);
}

INSTANTIATE_TEST_SUITE_P(Ranks, NcclStandIn, ::testing::Values(1, 2, 3));

TEST(NcclCommunicator, TakesMemoryOfCudaOnly) {
  stand_in::begin({});
  run_over_nccl(2, [](Communicator& nccl, int) {
    EXPECT_THROW(nccl.all_reduce(at::zeros({2}), ReduceOp::kSum), BugError);
    EXPECT_THROW(nccl.all_reduce(on_cuda(at::zeros({2}, at::kBFloat16)), ReduceOp::kSum), BugError);
  });
  expect_ends(2, 0);
}

TEST(NcclCommunicator, WaitsForALatePeerAtEveryStep) {
  stand_in::begin({});
  run_as_threads(2, [](Communicator& host) {
    stand_in::set_rank(host.rank());
    const bool is_late = host.rank() == 1;
    if (is_late) {
      pause();
    }
    const auto nccl = make_nccl_communicator(host, nullptr, {0, 1});
    const at::Tensor sum = on_cuda(at::ones({2}));
    if (is_late) {
      pause();
    }
    nccl->all_reduce(sum, ReduceOp::kSum);
    EXPECT_EQ(on_host(sum)[0].item<float>(), 2);
    if (is_late) {
      pause();
    }
  });
  expect_ends(2, 0);
}

// Waits for `flag` for a limited time, so that a failure does not hang the test.
bool comes(const std::atomic<bool>& flag) {
  for (int i = 0; i < 500 && !flag; ++i) {
    pause();
  }
  return flag;
}

TEST(NcclCommunicator, TheHostGoesOnWhileOperationsWaitForALatePeer) {
  stand_in::begin({});
  std::atomic<bool> has_gone_on = false;
  run_over_nccl(2, [&](Communicator& nccl, int rank) {
    if (rank == 1) {
      EXPECT_TRUE(comes(has_gone_on));
    }
    const at::Tensor sum = on_cuda(at::full({2}, rank + 1.0F));
    const at::Tensor of_root = on_cuda(at::full({2}, rank + 1.0F));
    nccl.all_reduce(sum, ReduceOp::kSum);
    nccl.broadcast(of_root, 1);
    nccl.all_reduce(sum, ReduceOp::kMax);
    const at::Tensor all = nccl.all_gather(of_root);
    if (rank == 0) {
      EXPECT_EQ(stand_in::as_it_is(sum)[0].item<float>(), 1);
      EXPECT_EQ(stand_in::as_it_is(of_root)[0].item<float>(), 1);
      has_gone_on = true;
    }
    const at::Tensor gathered = on_host(all);
    EXPECT_EQ(gathered[0][1].item<float>(), 2);
    EXPECT_EQ(gathered[1][0].item<float>(), 2);
    EXPECT_EQ(on_host(of_root)[0].item<float>(), 2);
    EXPECT_EQ(on_host(sum)[1].item<float>(), 3);
  });
  expect_ends(2, 0);
}

TEST(NcclCommunicator, ABarrierIsWaitedFor) {
  stand_in::begin({});
  std::atomic<bool> is_there = false;
  run_over_nccl(2, [&](Communicator& nccl, int rank) {
    if (rank == 1) {
      pause();
      is_there = true;
    }
    nccl.barrier();
    EXPECT_TRUE(is_there);
  });
  expect_ends(2, 0);
}

TEST(NcclCommunicator, AnotherVersionOfTheLibraryIsRefused) {
  stand_in::begin({.version = NCCL_VERSION_CODE + 1});
  const std::string failure = failure_of([] { run_over_nccl(2, [](Communicator&, int) {}); });
  EXPECT_NE(failure.find("built with version 2.28.9, but 2.28.10 was loaded"), std::string::npos)
      << failure;
}

TEST(NcclCommunicator, WithoutAnIdAllRanksFail) {
  stand_in::begin({.failing_call = "ncclGetUniqueId"});
  std::atomic<int> failed = 0;
  run_as_threads(2, [&](Communicator& host) {
    failed += failure_of([&] { make_nccl_communicator(host, nullptr, {0, 1}); }).empty() ? 0 : 1;
  });
  EXPECT_EQ(failed, 2);
}

// Rank 1 of three cannot join, and says `reason`.
void expect_all_fail(const stand_in::Faults& faults, const std::string& reason, int aborted) {
  stand_in::begin(faults);
  std::atomic<int> failed = 0;
  run_as_threads(3, [&](Communicator& host) {
    stand_in::set_rank(host.rank());
    const std::string failure = failure_of([&] {
      make_nccl_communicator(host, nullptr, {0, 1, 2});
    });
    EXPECT_NE(failure.find(host.rank() == 1 ? reason : "another rank"), std::string::npos)
        << failure;
    failed += failure.empty() ? 0 : 1;
  });
  EXPECT_EQ(failed, 3);
  expect_ends(0, aborted);
}

TEST(NcclCommunicator, WhereOneRankCannotJoinAllFailAndAbort) {
  expect_all_fail({.failing_later = "ncclCommInitRankConfig"}, "remote error", 3);
}

// The others' communicators never become ready, because one has not come.
TEST(NcclCommunicator, WhereOneRankFailsAtOnceNobodyWaitsForIt) {
  expect_all_fail({.failing_call = "ncclCommInitRankConfig"}, "system error", 2);
}

TEST(NcclCommunicator, AnAsynchronousErrorReachesEveryRank) {
  stand_in::begin({.failing_later = "ncclAllReduce"});
  std::atomic<int> failed = 0;
  run_over_nccl(2, [&](Communicator& nccl, int) {
    const at::Tensor x = on_cuda(at::ones({2}));
    const std::string failure = failure_of([&] {
      nccl.all_reduce(x, ReduceOp::kSum);
      nccl.barrier();
    });
    EXPECT_NE(failure.find("failed: remote error"), std::string::npos) << failure;
    failed += failure.empty() ? 0 : 1;
    EXPECT_NE(failure_of([&] { nccl.barrier(); }), "") << "a failed communicator is used again";
  });
  EXPECT_EQ(failed, 2);
  expect_ends(0, 2);
}

TEST(NcclCommunicator, TheDeathOfAPeerEndsTheWait) {
  stand_in::begin({.failing_call = "ncclBroadcast"});
  std::atomic<int> failed = 0;
  run_over_nccl(2, [&](Communicator& nccl, int rank) {
    const at::Tensor x = on_cuda(at::ones({2}));
    const std::string failure = failure_of([&] {
      nccl.broadcast(x, 0);
      nccl.barrier();
    });
    EXPECT_NE(failure.find(rank == 1 ? "system error" : "remote error"), std::string::npos)
        << failure;
    failed += failure.empty() ? 0 : 1;
    if (rank == 1) {
      stand_in::fail_everyone();
    }
  });
  EXPECT_EQ(failed, 2);
  expect_ends(0, 2);
}

TEST(NcclCommunicator, AnErrorOfTheStreamEndsTheWait) {
  stand_in::begin({});
  std::atomic<int> of_streams = 0;
  std::atomic<int> done = 0;
  run_over_nccl(2, [&](Communicator& nccl, int) {
    const at::Tensor sum = on_cuda(at::ones({2}));
    nccl.all_reduce(sum, ReduceOp::kSum);
    on_host(sum);
    ++done;
    while (done < 2) {
      pause();
    }
    stand_in::fail_streams();
    const std::string failure = failure_of([&] {
      nccl.all_reduce(sum, ReduceOp::kSum);
      nccl.barrier();
    });
    // The rank that sees it first aborts, which may be what the other one sees.
    EXPECT_NE(failure, "");
    of_streams += failure.substr(0, 5) == "CUDA:" ? 1 : 0;
  });
  EXPECT_GE(of_streams, 1);
  expect_ends(0, 2);
}

TEST(NcclCommunicator, ARankThatUnwindsAborts) {
  stand_in::begin({});
  EXPECT_THROW(run_over_nccl(2, [](Communicator&, int) { throw UserError("bad input"); }),
               UserError);
  expect_ends(0, 2);
}

TEST(NcclCommunicator, RanksInDifferentOperationsAreNotTakenForEachOther) {
  stand_in::begin({});
  run_over_nccl(2, [](Communicator& nccl, int rank) {
    const at::Tensor x = on_cuda(at::ones({2}));
    EXPECT_NE(failure_of([&] {
                if (rank == 0) {
                  nccl.all_reduce(x, ReduceOp::kSum);
                } else {
                  nccl.broadcast(x, 0);
                }
                nccl.barrier();
              }),
              "");
  });
  EXPECT_GE(stand_in::complaints().size(), 1U);
  EXPECT_NE(stand_in::complaints().front().find("where another calls"), std::string::npos);
}

// What make_nccl_communicator() exchanges over the host, by a rank that never comes to NCCL itself.
void join_host_only(Communicator& host) {
  host.all_reduce(at::zeros({1}, at::kLong), ReduceOp::kMax);
  host.broadcast(at::zeros({sizeof(ncclUniqueId)}, at::kByte), 0);
  bool failed = false;
  while (!failed) {
    const at::Tensor failed_or_unfinished = at::ones({2}, at::kLong);
    failed_or_unfinished[0] = 0;
    host.all_reduce(failed_or_unfinished, ReduceOp::kMax);
    failed = failed_or_unfinished[0].item<std::int64_t>() == 1;
  }
}

// Two ranks whose watches know them; `ended` counts the jobs that they would end.
void run_watched(std::atomic<int>& ended,
                 const std::function<void(Communicator& host, Watch& watch)>& body) {
  std::vector<PeerAddress> addresses(2);
  run_as_threads(2, [&](Communicator& host) {
    stand_in::set_rank(host.rank());
    Watch watch({.timeout = 0.5, .notice = 100}, [&] {
      ++ended;
      stand_in::fail_everyone();  // as MPI_Abort() would end the waiting of all
    });
    addresses[static_cast<std::size_t>(host.rank())] = watch.open("here", /*only_this_host=*/true);
    host.barrier();
    watch.meet(addresses, host.rank(), JobSecret{});
    watch.judge_by_time_alone();
    body(host, watch);
  });
}

void wait_for_the_end(const std::atomic<int>& ended) {
  for (int i = 0; i < 500 && ended == 0; ++i) {
    pause();
  }
}

// Rank 0 waits for rank 1, which comes to no operation of NCCL, or to none after the first.
void expect_deadline(bool joins) {
  stand_in::begin({});
  std::atomic<int> ended = 0;
  run_watched(ended, [&](Communicator& host, Watch& watch) {
    if (host.rank() == 1 && !joins) {
      join_host_only(host);
      return;
    }
    const std::string failure = failure_of([&] {
      const auto nccl = make_nccl_communicator(host, host.rank() == 0 ? &watch : nullptr, {0, 1});
      if (host.rank() == 1) {
        wait_for_the_end(ended);
      }
      nccl->barrier();
    });
    EXPECT_NE(failure.find("remote error"), std::string::npos) << failure;
  });
  EXPECT_EQ(ended, 1);
  EXPECT_EQ(stand_in::ends().open, 0);
}

// Rank 0 goes on behind an operation that does not end; `after` happens then.  Returns what its
// watch says.
std::string told_of_operation(const std::function<void()>& after) {
  stand_in::begin({});
  std::atomic<int> ended = 0;
  ::testing::internal::CaptureStderr();
  run_watched(ended, [&](Communicator& host, Watch& watch) {
    const auto nccl = make_nccl_communicator(host, host.rank() == 0 ? &watch : nullptr, {0, 1});
    const at::Tensor x = on_cuda(at::ones({3}, at::kDouble));
    nccl->barrier();
    host.barrier();  // what happens next finds no rank in NCCL's
    if (host.rank() == 0) {
      EXPECT_EQ(failure_of([&] { nccl->broadcast(x, 0); }), "");
      after();
    }
    wait_for_the_end(ended);
    EXPECT_NE(failure_of([&] { nccl->broadcast(x, 0); }), "");
  });
  EXPECT_EQ(ended, 1);
  EXPECT_EQ(stand_in::ends().open, 0);
  EXPECT_EQ(stand_in::ends().events, 0);
  return ::testing::internal::GetCapturedStderr();
}

TEST(NcclCommunicator, TheWatchNamesAnOperationThatNobodyWaitsForAtTheDeadline) {
  const std::string said = told_of_operation([] {});
  EXPECT_NE(said.find("rank 0 on here: no progress for 0.5 s (--timeout) in a broadcast of NCCL "
                      "(number 2, 24 bytes), which waits for"),
            std::string::npos)
      << said;
}

TEST(NcclCommunicator, TheWatchNamesAnOperationThatNobodyWaitsForWhenItFails) {
  const std::string said = told_of_operation([] { stand_in::fail_everyone(); });
  EXPECT_NE(said.find("rank 0 on here: a broadcast of NCCL (number 2, 24 bytes), "),
            std::string::npos)
      << said;
  EXPECT_NE(said.find(" s after it was asked for: NCCL: a broadcast of NCCL failed: remote error"),
            std::string::npos)
      << said;
  EXPECT_NE(said.find("the job ends here"), std::string::npos) << said;
}

// NCCL connects the ranks then.
TEST(NcclCommunicator, TheFirstOperationMayTakeLongerThanTheDeadline) {
  stand_in::begin({});
  std::atomic<int> ended = 0;
  run_watched(ended, [&](Communicator& host, Watch& watch) {
    const auto nccl = make_nccl_communicator(host, host.rank() == 0 ? &watch : nullptr, {0, 1});
    const at::Tensor x = on_cuda(at::ones({3}, at::kDouble));
    if (host.rank() == 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1500));  // three times the deadline
    }
    nccl->broadcast(x, 0);
    on_host(x);
  });
  EXPECT_EQ(ended, 0);
  expect_ends(2, 0);
}

TEST(NcclCommunicator, TheWatchSpoilsNoCapture) {
  stand_in::begin({});
  std::atomic<int> ended = 0;
  run_watched(ended, [&](Communicator& host, Watch& watch) {
    const auto nccl = make_nccl_communicator(host, host.rank() == 0 ? &watch : nullptr, {0, 1});
    const at::Tensor x = on_cuda(at::ones({3}, at::kDouble));
    nccl->barrier();
    host.barrier();
    if (host.rank() == 0) {
      nccl->broadcast(x, 0);
      stand_in::begin_capture();
    }
    wait_for_the_end(ended);
  });
  EXPECT_EQ(ended, 1);
  EXPECT_EQ(stand_in::complaints(), std::vector<std::string>());
}

TEST(NcclCommunicator, WhereTheEndFailsTheRankAborts) {
  for (const stand_in::Faults& faults :
       {stand_in::Faults{.failing_call = "ncclCommFinalize", .failing_rank = 0},
        stand_in::Faults{.failing_later = "ncclCommFinalize", .failing_rank = 0}}) {
    stand_in::begin(faults);
    run_over_nccl(1, [](Communicator& nccl, int) { nccl.barrier(); });
    expect_ends(0, 1);
  }
}

TEST(AcceleratorFault, IsAnOldDriverOrAMachineThatIsNotReady) {
  const auto fault_of = [](cudaError_t counted, int driver) {
    stand_in::begin({.count_of_devices = counted, .driver = driver});
    const std::string fault = accelerator_fault();
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
    return fault;
  };
  EXPECT_EQ(fault_of(cudaSuccess, 13000), "");
  EXPECT_EQ(fault_of(cudaErrorNoDevice, 13000), "");
  EXPECT_EQ(fault_of(cudaErrorInsufficientDriver, 0), "") << "as without any driver";
  const std::string old = fault_of(cudaErrorInsufficientDriver, 12020);
  EXPECT_NE(old.find("is for CUDA 12.2, and this program's torch needs one for CUDA 13.0"),
            std::string::npos)
      << old;
  const std::string not_ready = fault_of(cudaErrorSystemNotReady, 0);
  EXPECT_NE(not_ready.find("stand-in's error (error 802)"), std::string::npos) << not_ready;
}

TEST(NcclCommunicator, ARankThatNeverJoinsEndsTheJobAtTheDeadline) {
  expect_deadline(/*joins=*/false);
}

TEST(NcclCommunicator, ARankThatMissesAnOperationEndsTheJobAtTheDeadline) {
  expect_deadline(/*joins=*/true);
}

TEST(NcclCommunicator, TwoRanksOnOneDeviceAreNamed) {
  for (const bool same : {false, true}) {
    stand_in::begin({.same_bus = same});
    run_as_threads(3, [&](Communicator& host) {
      stand_in::set_rank(host.rank());
      const std::string shared = find_shared_device(host);
      EXPECT_EQ(shared.find("ranks 0 and 1 are on the same CUDA device") == 0, same) << shared;
      EXPECT_EQ(shared.empty(), !same);
    });
  }
}

}  // namespace
}  // namespace bipo
