// Watches of several ranks in one process, over the loopback device.
#include "collectives/watch/watch.hpp"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace bipo {
namespace {

using std::chrono::milliseconds;

// Ranks that know each other and have a group of all of them.
class Ranks {
 public:
  explicit Ranks(int count, WatchSettings settings = {0.6, 0.2})
      : ended_(static_cast<std::size_t>(count)) {
    const JobSecret secret = random_secret();
    for (int rank = 0; rank < count; ++rank) {
      auto& ended = ended_[static_cast<std::size_t>(rank)];
      watches_.push_back(std::make_unique<Watch>(settings, [&ended] { ended = true; }));
      addresses_.push_back(watches_.back()->open("here", /*only_this_host=*/true));
    }
    std::vector<int> all;
    for (int rank = 0; rank < count; ++rank) {
      watches_[static_cast<std::size_t>(rank)]->meet(addresses_, rank, secret);
      all.push_back(rank);
    }
    for (const auto& watch : watches_) {
      groups_.push_back(watch->add_group(all));
    }
  }

  std::unique_ptr<Waiting> wait(std::size_t rank, const char* operation = "an all-reduce") {
    return std::make_unique<Waiting>(watches_[rank].get(), groups_[rank], operation);
  }

  int group(std::size_t rank) const { return groups_[rank]; }
  Watch& watch(std::size_t rank) { return *watches_[rank]; }
  // The rank answers no more, as one that is stopped.
  void lose(std::size_t rank) { watches_[rank].reset(); }
  bool has_ended(std::size_t rank) const { return ended_[rank]; }
  const PeerAddress& address(std::size_t rank) const { return addresses_[rank]; }

  bool ends(std::size_t rank, milliseconds within) const {
    const auto deadline = std::chrono::steady_clock::now() + within;
    while (!ended_[rank] && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(milliseconds(5));
    }
    return ended_[rank];
  }

 private:
  std::vector<std::atomic<bool>> ended_;
  std::vector<PeerAddress> addresses_;
  std::vector<std::unique_ptr<Watch>> watches_;
  std::vector<int> groups_;
};

// Uses processor time, as a rank at work does.
void work_for(milliseconds time) {
  const auto deadline = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < deadline) {
  }
}

TEST(Watch, ALostRankEndsTheWaitAndIsNamed) {
  Ranks ranks(3);
  ranks.lose(1);
  ::testing::internal::CaptureStderr();
  const auto first = ranks.wait(0);
  const auto third = ranks.wait(2);
  EXPECT_TRUE(ranks.ends(0, milliseconds(20000)));
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("rank 0 on here has waited 0.2"), std::string::npos) << said;
  EXPECT_NE(said.find("in an all-reduce for rank 1 on here: no sign of life"), std::string::npos)
      << said;
  EXPECT_NE(said.find("no progress for 0.6 s (--timeout)"), std::string::npos) << said;
}

TEST(Watch, ARankAtWorkEndsNothing) {
  Ranks ranks(2);
  const auto first = ranks.wait(0);
  ::testing::internal::CaptureStderr();
  work_for(milliseconds(2500));
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_FALSE(ranks.has_ended(0));
  EXPECT_NE(said.find("rank 1 on here: at work"), std::string::npos) << said;
}

TEST(Watch, ShortWaitsSayNothing) {
  Ranks ranks(2);
  ::testing::internal::CaptureStderr();
  for (int i = 0; i < 40; ++i) {
    const auto first = ranks.wait(0);
    std::this_thread::sleep_for(milliseconds(25));
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  EXPECT_FALSE(ranks.has_ended(0));
}

TEST(Watch, SaysWhenAWaitIsOver) {
  Ranks ranks(2, {0, 0.2});
  ranks.lose(1);
  ::testing::internal::CaptureStderr();
  auto first = ranks.wait(0);
  std::this_thread::sleep_for(milliseconds(700));
  first.reset();
  std::this_thread::sleep_for(milliseconds(200));
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("rank 0 on here goes on after 0."), std::string::npos) << said;
  EXPECT_EQ(said.find("--timeout"), std::string::npos) << said;
}

TEST(Watch, GroupsOfTheSameRanksAreDifferent) {
  Ranks ranks(2);
  const int other = ranks.watch(1).add_group({0, 1});
  ranks.watch(0).add_group({0, 1});
  ::testing::internal::CaptureStderr();
  const auto first = ranks.wait(0);
  const Waiting second(&ranks.watch(1), other, "a barrier");
  EXPECT_TRUE(ranks.ends(0, milliseconds(20000)) || ranks.has_ended(1));
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("waits for others"), std::string::npos) << said;
}

// The rank's main thread does not wait for it.
TEST(Watch, AnOperationOnADeviceIsAWait) {
  Ranks ranks(2);
  ranks.lose(1);
  ::testing::internal::CaptureStderr();
  ranks.watch(0).watch_device(ranks.group(0), [] {
    return DeviceProgress{DeviceOperation{1, "a sum (number 7)", {}}, ""};
  });
  EXPECT_TRUE(ranks.ends(0, milliseconds(20000)));
  ranks.watch(0).forget(ranks.group(0));
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("in a sum (number 7), which waits for rank 1 on here: no sign of life"),
            std::string::npos)
      << said;
}

TEST(Watch, OperationsOnADeviceThatEndSayNothing) {
  Ranks ranks(2);
  std::atomic<std::uint64_t> begun = 0;
  ::testing::internal::CaptureStderr();
  ranks.watch(0).watch_device(ranks.group(0), [&] {
    return DeviceProgress{DeviceOperation{++begun, "a sum", {}}, ""};
  });
  std::this_thread::sleep_for(milliseconds(900));
  ranks.watch(0).forget(ranks.group(0));
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  EXPECT_FALSE(ranks.has_ended(0));
  EXPECT_GT(begun, 3U);
}

TEST(Watch, KnowsWhetherAllAnswer) {
  Ranks ranks(3);
  EXPECT_TRUE(ranks.watch(0).answered(20));
  Ranks others(2);
  others.lose(1);
  EXPECT_FALSE(others.watch(0).answered(0.3));
}

TEST(Watch, CountsTimeAloneWhereItCannotAsk) {
  Ranks ranks(2);
  ranks.watch(0).judge_by_time_alone();
  ::testing::internal::CaptureStderr();
  const auto first = ranks.wait(0);
  EXPECT_TRUE(ranks.ends(0, milliseconds(20000)));
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("none of which can be asked"),
            std::string::npos);
}

// Returns what comes back from a rank for `bytes`, within a short time.
ssize_t answer_to(const PeerAddress& address, const std::vector<char>& bytes) {
  const int handle = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const timeval patience{0, 200000};
  ::setsockopt(handle, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = address.port;
  ::sendto(handle, bytes.data(), bytes.size(), 0, reinterpret_cast<const sockaddr*>(&to),
           sizeof(to));
  char answer[2048];
  const ssize_t count = ::recv(handle, answer, sizeof(answer), 0);
  ::close(handle);
  return count;
}

TEST(Watch, AnswersNobodyWithoutTheSecret) {
  Ranks ranks(2);
  ASSERT_TRUE(ranks.watch(0).answered(20));
  for (const std::size_t size : {0, 1, 16, 28, 200, 664, 2000}) {
    EXPECT_EQ(answer_to(ranks.address(1), std::vector<char>(size)), -1) << size;
  }
  EXPECT_TRUE(ranks.watch(1).answered(20));
}

}  // namespace
}  // namespace bipo
