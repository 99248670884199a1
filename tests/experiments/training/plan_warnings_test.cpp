// Warnings of plans whose steps and micro-batches are counted by hand.
#include "experiments/training/plan_warnings.hpp"

#include <gtest/gtest.h>

namespace bipo {
namespace {

using Texts = std::vector<std::string>;

constexpr PlanWording kTraining{"the run", "--lr", ""};

// 10 pairs, so 3 steps an epoch and 6 in all; each but the last of an epoch is cut in two.
BatchPlan small_plan() {
  PlanSettings settings;
  settings.pairs = 10;
  settings.batch_size = 4;
  settings.micro_batch = 2;
  settings.epochs = 2;
  return BatchPlan(settings);
}

Texts warnings_of(std::int64_t warmup_steps, std::int64_t dp, const PlanWording& wording) {
  return plan_warnings(small_plan(), warmup_steps, 2, dp, wording);
}

TEST(PlanWarnings, NoneWhereTheRateIsReachedAndEveryReplicaWorks) {
  EXPECT_EQ(warnings_of(5, 2, kTraining), Texts{});
}

TEST(PlanWarnings, OfABatchOfMoreThanAllPairs) {
  PlanSettings settings;
  settings.pairs = 4;
  settings.batch_size = 100;
  settings.micro_batch = 4;
  EXPECT_EQ(plan_warnings(BatchPlan(settings), 0, 4, 1, kTraining),
            Texts{"a batch of 100 is more than the 4 pairs: every step takes all of them"});
  settings.batch_size = 4;
  EXPECT_EQ(plan_warnings(BatchPlan(settings), 0, 4, 1, kTraining), Texts{});
}

TEST(PlanWarnings, OfAWarmUpThatLastsTheWholeRun) {
  EXPECT_EQ(warnings_of(6, 1, kTraining),
            Texts{"the warm-up of 6 steps is as long as the run or longer (6 steps): the learning "
                  "rate never reaches --lr; lower --warmup-steps"});
}

TEST(PlanWarnings, OfReplicasWithoutAMicroBatch) {
  EXPECT_EQ(warnings_of(0, 5, kTraining),
            Texts{"3 of 5 replicas idle: a batch of 4 in micro-batches of 2 gives work to 2; lower "
                  "--micro-batch, raise --batch-size, or use --tp"});
}

TEST(PlanWarnings, SpeakAsTheCommandDoes) {
  EXPECT_EQ(warnings_of(100, 3, {"a cell's run", "--lrs", ", always"}),
            (Texts{"the warm-up of 100 steps is as long as a cell's run or longer (6 steps): the "
                   "learning rate never reaches --lrs; lower --warmup-steps",
                   "1 of 3 replicas idle: a batch of 4 in micro-batches of 2 gives work to 2, "
                   "always; lower --micro-batch, raise --batch-size, or use --tp"}));
}

}  // namespace
}  // namespace bipo
