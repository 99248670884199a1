// Whatever a file does to the process that reads it first, this one goes on and says so.
#include "experiments/files/trial_process.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <string>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

using testing::error_of;
using testing::expect_parts;

void take_memory() {
  std::vector<std::string> blocks;
  while (true) {
    blocks.emplace_back(std::size_t{16} << 20, 'x');
  }
}

// Does what the file says.
void obey(const std::string& path, int descriptor) {
  std::string order(16, '\0');
  order.resize(static_cast<std::size_t>(::pread(descriptor, order.data(), order.size(), 0)));
  if (order == "crash") {
    ::signal(SIGSEGV, SIG_DFL);  // AddressSanitizer has a handler of its own
    ::raise(SIGSEGV);
  } else if (order == "loop") {
    const volatile bool goes_on = true;
    while (goes_on) {
    }
  } else if (order == "memory") {
    take_memory();
  } else if (order == "exit") {
    ::_exit(3);
  } else if (order == "refuse") {
    throw UserError(path + ": refused by process " + std::to_string(::getpid()));
  } else if (order == "fail") {
    throw EnvironmentError("no disk");
  }
}

const bool is_registered = (register_trial("obey", obey), true);

class TrialProcessTest : public ::testing::Test {
 protected:
  ~TrialProcessTest() override { ::unlink(path_.c_str()); }

  void order(const std::string& text) const {
    std::ofstream(path_) << text;
    const InputFile file(path_);
    try_reading("obey", path_, file);
  }

  std::string path_ = ::testing::TempDir() + "/trial_process_test_" + std::to_string(::getpid());
};

TEST_F(TrialProcessTest, LetsGoodFilesPass) {
  ASSERT_TRUE(is_registered);
  EXPECT_NO_THROW(order("good"));
}

TEST_F(TrialProcessTest, NamesACrash) {
  expect_parts(error_of<TrialFailure>([&] { order("crash"); }), {"crashed", "Segmentation fault"});
  EXPECT_NO_THROW(order("good"));
}

TEST_F(TrialProcessTest, EndsALoop) {
  const auto start = std::chrono::steady_clock::now();
  expect_parts(error_of<TrialFailure>([&] { order("loop"); }), {"did not end"});
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(70));
  EXPECT_NO_THROW(order("good"));
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST_F(TrialProcessTest, LimitsMemory) {
  expect_parts(error_of<TrialFailure>([&] { order("memory"); }), {"1024 MiB"});
  EXPECT_NO_THROW(order("good"));
}
#endif

TEST_F(TrialProcessTest, NamesAnEarlyExit) {
  expect_parts(error_of<TrialFailure>([&] { order("exit"); }), {"exit code 3"});
}

TEST_F(TrialProcessTest, PassesErrorsOn) {
  expect_parts(error_of<UserError>([&] { order("refuse"); }), {path_, "refused by process"});
  EXPECT_EQ(
      error_of<UserError>([&] { order("refuse"); }).find("process " + std::to_string(::getpid())),
      std::string::npos)
      << "read by this process";
  expect_parts(error_of<EnvironmentError>([&] { order("fail"); }), {"no disk"});
}

}  // namespace
}  // namespace bipo
