// One job at a time writes a result: who is refused, who waits, who takes over.
#include "experiments/sweeps/out_claim.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>

#include "collectives/foundation/errors.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

class OutClaimTest : public ::testing::Test {
 protected:
  OutClaimTest() {
    std::string pattern = (fs::temp_directory_path() / "out-claim-XXXXXX").string();
    directory_ = ::mkdtemp(pattern.data());
  }
  ~OutClaimTest() override { fs::remove_all(directory_); }

  fs::path out() const { return directory_ / "run.h5"; }

  // Starts a process that holds the claim until it is killed.
  pid_t start_owner() const {
    const pid_t owner = fork();
    if (owner == 0) {
      const OutClaim claim(out());
      while (true) {
        ::pause();
      }
    }
    while (read_claim_in(directory_ / ".run.h5.claim", "job").state != ClaimState::kLive) {
      std::this_thread::sleep_for(5ms);
    }
    return owner;
  }

  static void kill_and_wait(pid_t process) {
    ::kill(process, SIGKILL);
    ASSERT_EQ(::waitpid(process, nullptr, 0), process);
  }

  fs::path directory_;
};

TEST_F(OutClaimTest, LeavesNothing) {
  for (int i = 0; i < 2; ++i) {
    const OutClaim claim(out());
    EXPECT_TRUE(claim.is_mine());
    EXPECT_TRUE(fs::is_directory(directory_ / ".run.h5.claim"));
  }
  EXPECT_TRUE(fs::is_empty(directory_));
}

TEST_F(OutClaimTest, NamesALiveOwnerAlsoThroughALink) {
  const pid_t owner = start_owner();
  fs::create_symlink("run.h5", directory_ / "link.h5");
  testing::expect_parts(
      testing::error_of<UserError>([&] { const OutClaim claim(directory_ / "link.h5"); }),
      {"link.h5", "process " + std::to_string(owner) + " on ", "since 2"});
  kill_and_wait(owner);
}

TEST_F(OutClaimTest, WaitsForAnOwnerThatIsAboutToEnd) {
  const pid_t owner = start_owner();
  std::jthread end([&] {
    std::this_thread::sleep_for(500ms);
    ::kill(owner, SIGKILL);
  });
  EXPECT_TRUE(OutClaim(out()).is_mine());
  end.join();
  ASSERT_EQ(::waitpid(owner, nullptr, 0), owner);
  EXPECT_TRUE(fs::is_empty(directory_)) << "the next owner removes what the killed one left";
}

TEST_F(OutClaimTest, AnOfferIsTakenAtOnceAndTheFormerOwnerKnows) {
  OutClaim first(out());
  first.offer();
  EXPECT_TRUE(first.is_mine());
  const OutClaim second(out());
  EXPECT_FALSE(first.is_mine());
  EXPECT_TRUE(second.is_mine());
}

TEST_F(OutClaimTest, AnotherDirectoryInTheSamePlaceIsNoOtherOwner) {
  const OutClaim claim(out());
  fs::remove_all(directory_);
  EXPECT_TRUE(claim.is_mine());
  fs::create_directory(directory_);
  EXPECT_TRUE(claim.is_mine());
}

}  // namespace
}  // namespace bipo
