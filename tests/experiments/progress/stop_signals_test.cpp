// Signals that ask for a stop, each in a process of its own.
#include "experiments/progress/stop_signals.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <thread>

namespace bipo {
namespace {

using namespace std::chrono_literals;

constexpr int kStopped = 75;
constexpr int kToldToStop = 3;

// Ends the process with kToldToStop once the main thread learns of the signal.
[[noreturn]] void work_until_told() {
  while (!stop_signal_received()) {
    std::this_thread::sleep_for(1ms);
  }
  std::_Exit(kToldToStop);
}

[[noreturn]] void work_for_ever() {
  while (true) {
    std::this_thread::sleep_for(1s);
  }
}

class StopSignalsTest : public testing::Test {
 protected:
  // The death test's own process begins anew: it has one thread.
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

class EachStopSignalTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_P(EachStopSignalTest, EndsTheStart) {
  EXPECT_EXIT(
      {
        hear_stop_signals(kStopped);
        ::kill(::getpid(), GetParam());
        work_for_ever();
      },
      testing::ExitedWithCode(kStopped), "bipo-dist: SIG[A-Z1]+: ends now");
}

TEST_P(EachStopSignalTest, SavesWithoutTheMainThread) {
  EXPECT_EXIT(
      {
        hear_stop_signals(kStopped);
        const SaveAtStop at_stop([] {
          std::fputs("saved\n", stderr);
          std::_Exit(kToldToStop);
        });
        ::kill(::getpid(), GetParam());
        work_for_ever();
      },
      testing::ExitedWithCode(kToldToStop), "saves the last completed step now.*\nsaved");
}

TEST_P(EachStopSignalTest, IsLeftToTheMainThread) {
  EXPECT_EXIT(
      {
        hear_stop_signals(kStopped);
        stop_when_asked();
        ::kill(::getpid(), GetParam());
        work_until_told();
      },
      testing::ExitedWithCode(kToldToStop), "stops after the work in progress");
}

INSTANTIATE_TEST_SUITE_P(All, EachStopSignalTest,
                         testing::Values(SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGUSR1));

TEST_F(StopSignalsTest, CleansUpBeforeItEnds) {
  EXPECT_EXIT(
      {
        hear_stop_signals(kStopped);
        stop_when_asked();
        const EndAtOnce ends([] { std::fputs("cleaned up\n", stderr); });
        ::kill(::getpid(), SIGTERM);
        work_for_ever();
      },
      testing::ExitedWithCode(kStopped), "ends now.*\ncleaned up");
}

TEST_F(StopSignalsTest, EndsNoEarlierThanItMay) {
  EXPECT_EXIT(
      {
        hear_stop_signals(kStopped);
        {
          const EndLater later;
          ::kill(::getpid(), SIGTERM);
          while (!stop_signal_received()) {
            std::this_thread::sleep_for(1ms);
          }
          std::this_thread::sleep_for(50ms);
          std::fputs("started\n", stderr);
        }
        work_for_ever();
      },
      testing::ExitedWithCode(kStopped), "ends now.*\nstarted");
}

TEST_F(StopSignalsTest, SaysFarewellBeforeItEndsAtOnce) {
  EXPECT_EXIT(
      {
        hear_stop_signals(kStopped);
        const BeforeEnd before_end([] { std::fputs("farewell\n", stderr); });
        const EndAtOnce at_once([] { std::fputs("cleaned up\n", stderr); });
        ::kill(::getpid(), SIGTERM);
        work_for_ever();
      },
      testing::ExitedWithCode(kStopped), "ends now.*\ncleaned up\nfarewell");
}

TEST_F(StopSignalsTest, EndsWhereItFindsTheSignalHere) {
  EXPECT_EXIT(
      {
        hear_stop_signals(kStopped);
        stop_when_asked();
        ::kill(::getpid(), SIGTERM);
        while (!stop_signal_received()) {
          std::this_thread::sleep_for(1ms);
        }
        const EndAtOnce ends([] { std::fputs("cleaned up\n", stderr); });
        std::_Exit(kToldToStop);
      },
      testing::ExitedWithCode(kStopped), "cleaned up");
}

TEST_F(StopSignalsTest, TheEndOfASaverWaitsForTheSave) {
  EXPECT_EXIT(
      {
        hear_stop_signals(kStopped);
        bool is_saved = false;  // read by the main thread after the destructor
        {
          const SaveAtStop at_stop([&] {
            std::this_thread::sleep_for(300ms);
            is_saved = true;
          });
          ::kill(::getpid(), SIGTERM);
          std::this_thread::sleep_for(100ms);
        }
        std::_Exit(is_saved ? kToldToStop : 1);
      },
      testing::ExitedWithCode(kToldToStop), "");
}

TEST_F(StopSignalsTest, AFailedSaveIsPrintedAndTheWorkGoesOn) {
  EXPECT_EXIT(
      {
        hear_stop_signals(kStopped);
        {
          const SaveAtStop at_stop([] { throw std::runtime_error("no room"); });
          ::kill(::getpid(), SIGTERM);
          std::this_thread::sleep_for(300ms);
        }
        work_until_told();
      },
      testing::ExitedWithCode(kToldToStop), "not saved at the signal: no room");
}

TEST_F(StopSignalsTest, ASecondInterruptWaitsForTheSaveAndNoLonger) {
  EXPECT_EXIT(
      {
        hear_stop_signals(kStopped);
        const SaveAtStop at_stop([] {
          std::this_thread::sleep_for(300ms);
          std::fputs("saved\n", stderr);
        });
        ::kill(::getpid(), SIGINT);
        std::this_thread::sleep_for(100ms);
        ::kill(::getpid(), SIGINT);
        work_for_ever();
      },
      testing::ExitedWithCode(kStopped), "SIGINT again: ends now\nsaved");
}

TEST_F(StopSignalsTest, ASecondInterruptEndsASaveThatHangs) {
  EXPECT_EXIT(
      {
        hear_stop_signals(kStopped);
        const SaveAtStop at_stop([] { work_for_ever(); });
        ::kill(::getpid(), SIGTERM);
        std::this_thread::sleep_for(100ms);
        ::kill(::getpid(), SIGINT);
        work_for_ever();
      },
      testing::KilledBySignal(SIGINT), "SIGINT again");
}

TEST_F(StopSignalsTest, OtherSecondSignalsChangeNothing) {
  EXPECT_EXIT(
      {
        hear_stop_signals(kStopped);
        stop_when_asked();
        for (const int signal : {SIGTERM, SIGTERM, SIGUSR1, SIGHUP, SIGPIPE}) {
          ::kill(::getpid(), signal);
          std::this_thread::sleep_for(50ms);
        }
        work_until_told();
      },
      testing::ExitedWithCode(kToldToStop), "");
}

TEST_F(StopSignalsTest, AWriteToAClosedPipeIsNoRequest) {
  EXPECT_EXIT(
      {
        hear_stop_signals(kStopped);
        int ends[2] = {};
        const bool is_pipe = ::pipe(ends) == 0 && ::close(ends[0]) == 0;
        const bool fails = ::write(ends[1], "x", 1) == -1 && errno == EPIPE;
        std::this_thread::sleep_for(100ms);
        std::_Exit(is_pipe && fails && !stop_signal_received() ? kToldToStop : 1);
      },
      testing::ExitedWithCode(kToldToStop), "");
}

TEST_F(StopSignalsTest, WhatTheParentIgnoresStaysIgnored) {
  EXPECT_EXIT(
      {
        ::signal(SIGHUP, SIG_IGN);
        hear_stop_signals(kStopped);
        ::kill(::getpid(), SIGHUP);
        std::this_thread::sleep_for(100ms);
        std::_Exit(stop_signal_received() ? 1 : kToldToStop);
      },
      testing::ExitedWithCode(kToldToStop), "");
}

}  // namespace
}  // namespace bipo
