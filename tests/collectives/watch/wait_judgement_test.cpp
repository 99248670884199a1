// What a waiting rank concludes from the answers of others, with a clock that the tests turn.
#include "collectives/watch/wait_judgement.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace bipo {
namespace {

constexpr GroupCount kOperation{77, 5};

PeerStatus working(int rank, double idle = 0) {
  PeerStatus status;
  status.rank = rank;
  status.quiet = idle;
  status.activity = "train 3/9";
  status.groups[2] = {77, 4};
  return status;
}

PeerStatus waiting(int rank, double quiet, bool knows_cause = false) {
  PeerStatus status = working(rank, quiet);
  status.waits = true;
  status.knows_cause = knows_cause;
  return status;
}

PeerStatus arrived(int rank) {
  PeerStatus status = waiting(rank, 0);
  status.groups[2] = {77, 5};
  return status;
}

std::string name(int rank) {
  return "rank " + std::to_string(rank);
}

// Rank 1 of a group of 0, 1, 2, which waits up to 600 s, and speaks after 30.
class Wait {
 public:
  explicit Wait(int own_rank = 1, bool can_be_asked = true)
      : judgement_({600, 30, 1}, own_rank, others_of(own_rank), kOperation, can_be_asked) {}

  // Every second asks all; `answers` are those of the ranks that answer.
  void pass(int seconds, const std::vector<PeerStatus>& answers) {
    for (int i = 0; i < seconds; ++i) {
      judgement_.advance(1);
      judgement_.next_to_ask(64);
      for (const PeerStatus& answer : answers) {
        judgement_.hear(answer);
      }
      notices_ += judgement_.takes_notice() ? 1 : 0;
    }
  }

  WaitJudgement& judgement() { return judgement_; }
  int notices() const { return notices_; }
  std::string reasons(bool all = false) const { return judgement_.reasons(name, all); }

 private:
  static std::vector<int> others_of(int own_rank) {
    std::vector<int> others = {0, 1, 2};
    std::erase(others, own_rank);
    return others;
  }

  WaitJudgement judgement_;
  int notices_ = 0;
};

TEST(WaitJudgement, TellsSignsApart) {
  Wait wait(0);
  EXPECT_EQ(wait.judgement().sign_of(1), PeerSign::kUnknown);
  wait.pass(5, {working(1)});
  EXPECT_EQ(wait.judgement().sign_of(1), PeerSign::kWorking);
  EXPECT_EQ(wait.judgement().sign_of(2), PeerSign::kSilent);
  wait.pass(1, {working(1, 15), waiting(2, 3)});
  EXPECT_EQ(wait.judgement().sign_of(1), PeerSign::kIdle);
  EXPECT_EQ(wait.judgement().sign_of(2), PeerSign::kWaiting);
  wait.pass(1, {arrived(1), arrived(2)});
  EXPECT_EQ(wait.judgement().sign_of(1), PeerSign::kArrived);
  // Who has gone further, out of this operation, has been here.
  PeerStatus further = working(2);
  further.groups[2].begun = 6;
  wait.pass(1, {arrived(1), further});
  EXPECT_EQ(wait.judgement().sign_of(2), PeerSign::kArrived);
}

TEST(WaitJudgement, AStoppedRankEndsTheWaitAfterTheTimeout) {
  Wait wait(0);
  wait.pass(30, {arrived(2)});
  EXPECT_EQ(wait.notices(), 1);
  EXPECT_EQ(wait.reasons(), "rank 1: no sign of life");
  wait.pass(570, {arrived(2)});
  EXPECT_FALSE(wait.judgement().is_over());
  wait.pass(2, {arrived(2)});
  EXPECT_TRUE(wait.judgement().is_over());
  EXPECT_EQ(wait.notices(), 5);  // at 30, 60, 120, 240, 480
}

TEST(WaitJudgement, ARankAtWorkNeverEndsIt) {
  Wait wait(0);
  wait.pass(100000, {working(1), arrived(2)});
  EXPECT_FALSE(wait.judgement().is_over());
  EXPECT_FALSE(wait.judgement().knows_cause());
  EXPECT_EQ(wait.reasons(), "rank 1: at work (train 3/9)");
}

TEST(WaitJudgement, ARankThatUsesNoProcessorTimeEndsIt) {
  Wait wait(0);
  for (int idle = 0; idle < 650; ++idle) {
    wait.pass(1, {working(1, idle), arrived(2)});
    EXPECT_EQ(wait.judgement().is_over(), idle >= 600) << idle;
  }
  EXPECT_EQ(wait.reasons(), "rank 1: alive, but without any progress for 10.8 min (train 3/9)");
}

TEST(WaitJudgement, AnAnswerAfterASilenceBeginsItAnew) {
  Wait wait(0);
  wait.pass(590, {arrived(2)});
  wait.pass(1, {working(1), arrived(2)});
  EXPECT_EQ(wait.judgement().quiet(), 0);
  wait.pass(590, {arrived(2)});
  EXPECT_FALSE(wait.judgement().is_over());
}

TEST(WaitJudgement, AStoppedRankEndsItAlsoWhereItStoppedInTheOperation) {
  Wait wait(0);
  wait.pass(5, {arrived(1), arrived(2)});
  wait.pass(605, {arrived(2)});
  EXPECT_TRUE(wait.judgement().is_over());
  EXPECT_EQ(wait.reasons(), "rank 1: no sign of life");
}

TEST(WaitJudgement, AnOperationThatAllAreInEndsToo) {
  Wait wait(0);
  wait.pass(600, {arrived(1), arrived(2)});
  EXPECT_TRUE(wait.judgement().is_over());
  EXPECT_EQ(wait.reasons(), "the transport: all ranks are in it and alive");
}

TEST(WaitJudgement, TheLowestWaitingRankSpeaksAndEndsItFirst) {
  Wait lowest(0);
  Wait second(1);
  lowest.pass(602, {arrived(1)});
  second.pass(602, {arrived(0)});
  EXPECT_EQ(lowest.reasons(), "rank 2: no sign of life");
  EXPECT_EQ(second.reasons(), "");
  EXPECT_EQ(second.reasons(/*all=*/true), "rank 2: no sign of life");
  EXPECT_TRUE(lowest.judgement().is_over());
  EXPECT_FALSE(second.judgement().is_over());
  second.pass(4, {arrived(0)});
  EXPECT_TRUE(second.judgement().is_over());
}

TEST(WaitJudgement, LeavesItToTheWaitingRankToNameTheCause) {
  Wait wait(0);
  wait.pass(40, {waiting(1, 39, /*knows_cause=*/true), arrived(2)});
  EXPECT_TRUE(wait.judgement().knows_cause());
  EXPECT_EQ(wait.reasons(), "");
  EXPECT_EQ(wait.judgement().quiet(), 40);
}

TEST(WaitJudgement, WaitsAsLongAsSomebodyWorksAtTheEndOfTheChain) {
  Wait wait(0);
  wait.pass(5000, {waiting(1, 0), arrived(2)});
  EXPECT_FALSE(wait.judgement().is_over());
  EXPECT_EQ(wait.reasons(), "");
}

// Two ranks in different operations of one group: each hears the other wait.
TEST(WaitJudgement, RanksThatWaitForEachOtherGrowQuiet) {
  const WaitLimits limits{600, 30, 1};
  WaitJudgement first(limits, 0, {1}, {77, 5}, true);
  WaitJudgement second(limits, 1, {0}, {88, 5}, true);
  int over = 0;
  for (int i = 1; i < 700 && over == 0; ++i) {
    for (WaitJudgement* judgement : {&first, &second}) {
      judgement->advance(1);
      judgement->next_to_ask(64);
    }
    const PeerStatus of_first = waiting(0, first.quiet(), first.knows_cause());
    first.hear(waiting(1, second.quiet(), second.knows_cause()));
    second.hear(of_first);
    over = first.is_over() ? i : 0;
  }
  EXPECT_GE(over, 600);
  EXPECT_LE(over, 605);
  EXPECT_EQ(first.reasons(name, false), "rank 1: waits for others (train 3/9)");
}

TEST(WaitJudgement, CountsTheTimeAloneWhereNobodyCanBeAsked) {
  Wait wait(0, /*can_be_asked=*/false);
  EXPECT_TRUE(wait.judgement().next_to_ask(64).empty());
  wait.pass(599, {});
  EXPECT_FALSE(wait.judgement().is_over());
  wait.pass(1, {});
  EXPECT_TRUE(wait.judgement().is_over());
  EXPECT_EQ(wait.reasons(), "another rank, none of which can be asked over UDP");
}

TEST(WaitJudgement, ATimeoutOfZeroNeverEndsIt) {
  WaitJudgement judgement({0, 30, 1}, 0, {1}, kOperation, true);
  judgement.next_to_ask(64);
  judgement.next_to_ask(64);
  judgement.advance(1e9);
  EXPECT_EQ(judgement.sign_of(1), PeerSign::kSilent);
  EXPECT_FALSE(judgement.is_over());
}

TEST(WaitJudgement, AsksTheRanksOfALargeGroupInTurn) {
  std::vector<int> others;
  for (int rank = 1; rank < 150; ++rank) {
    others.push_back(rank);
  }
  WaitJudgement judgement({600, 30, 1}, 0, others, kOperation, true);
  std::map<int, int> asked;
  for (int tick = 0; tick < 3; ++tick) {
    const std::vector<int> now = judgement.next_to_ask(64);
    EXPECT_EQ(std::set<int>(now.begin(), now.end()).size(), 64U);
    for (const int rank : now) {
      ++asked[rank];
    }
  }
  EXPECT_EQ(asked.size(), others.size());  // 192 questions reach all 149
}

TEST(WaitJudgement, NamesAFewOfMany) {
  std::vector<int> others;
  for (int rank = 1; rank < 30; ++rank) {
    others.push_back(rank);
  }
  WaitJudgement judgement({600, 30, 1}, 0, others, kOperation, true);
  for (int i = 0; i < 5; ++i) {
    judgement.next_to_ask(64);
    judgement.advance(1);
  }
  const std::string reasons = judgement.reasons(name, false);
  EXPECT_NE(reasons.find("rank 8: no sign of life; and 21 more"), std::string::npos) << reasons;
}

TEST(DurationText, IsShort) {
  EXPECT_EQ(duration_text(0.5), "0.5 s");
  EXPECT_EQ(duration_text(30.04), "30 s");
  EXPECT_EQ(duration_text(600), "10 min");
  EXPECT_EQ(duration_text(9000), "2.5 h");
}

}  // namespace
}  // namespace bipo
