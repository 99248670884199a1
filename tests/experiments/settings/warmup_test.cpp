// Lengths of warm-ups worked out by hand, and how runs of earlier versions go on.
#include "experiments/settings/warmup.hpp"

#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "collectives/foundation/errors.hpp"
#include "experiments/settings/option_values.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

using Steps = std::optional<std::int64_t>;

using testing::error_of;

std::int64_t steps_of(const char* warmup, std::int64_t total) {
  TrainOptions options;
  options.warmup = parse_warmup(warmup);
  return warmup_steps(options, total);
}

TEST(Warmup, IsATenthOfTheRunByDefault) {
  const auto steps = [](std::int64_t total) { return warmup_steps(TrainOptions(), total); };
  EXPECT_EQ(steps(3210), 321);
  EXPECT_EQ(steps(101), 11);
  EXPECT_EQ(steps(100), 10);
  EXPECT_EQ(steps(15), 2);
  EXPECT_EQ(steps(10), 1);
  EXPECT_EQ(steps(2), 1);
  EXPECT_EQ(steps(1), 0);
}

TEST(Warmup, OfAShareIsRoundedUp) {
  EXPECT_EQ(steps_of("0.1", 30), 3);
  EXPECT_EQ(steps_of("0.1", 31), 4);
  EXPECT_EQ(steps_of("0.1", 70), 7);  // 0.1 * 70 is above 7 in doubles
  EXPECT_EQ(steps_of("0.1", 5000), 500);
  EXPECT_EQ(steps_of("0.0", 30), 0);
  EXPECT_EQ(steps_of("5e-2", 100), 5);
}

TEST(Warmup, IsShorterThanTheRun) {
  EXPECT_EQ(steps_of("0.99", 12), 11);
  EXPECT_EQ(steps_of("20", 12), 11);
  EXPECT_EQ(steps_of("20", 21), 20);
  EXPECT_EQ(steps_of("20", 1), 0);
  EXPECT_EQ(steps_of("0", 12), 0);
}

TEST(Warmup, InStepsIsTakenAsItIs) {
  TrainOptions options;
  options.warmup_steps = 500;
  EXPECT_EQ(warmup_steps(options, 12), 500);
  options.warmup = parse_warmup("0.25");  // where a preset set the other
  EXPECT_EQ(warmup_steps(options, 12), 3);
}

TEST(Warmup, TextsAreAShareOrSteps) {
  EXPECT_EQ(std::get<std::int64_t>(parse_warmup("1")), 1);
  EXPECT_EQ(std::get<double>(parse_warmup("0.5")), 0.5);
  for (const char* wrong : {"1.0", "1.5", "-1", "-0.5", "10%", "", "nan"}) {
    testing::expect_parts(error_of<UserError>([&] { parse_warmup(wrong); }), {"0.1", "20"});
  }
}

// Earlier versions stored 100 for a run without the option, whatever its length.
TEST(Warmup, ARunOfAnEarlierVersionKeepsItsDefault) {
  const std::string of_default = R"({"warmup_steps":100})";
  TrainOptions given;
  EXPECT_EQ(continued_warmup_steps(given, of_default), Steps(100));
  EXPECT_EQ(continued_warmup_steps(given, R"({"warmup_steps":2})"), Steps());
  EXPECT_EQ(continued_warmup_steps(given, "{}"), Steps());
  EXPECT_EQ(continued_warmup_steps(given, ""), Steps());
  given.warmup_steps = 7;
  EXPECT_EQ(continued_warmup_steps(given, of_default), Steps(7));
  given.warmup_steps.reset();
  given.warmup = parse_warmup("0.1");
  EXPECT_EQ(continued_warmup_steps(given, of_default), Steps());
}

TEST(Warmup, SoDoesASweep) {
  SweepOptions given;
  EXPECT_EQ(continued_warmup_steps_of_plan(given, R"({"settings":{"warmup_steps":100}})"),
            Steps(100));
  EXPECT_EQ(continued_warmup_steps_of_plan(given, R"({"settings":{"warmup_steps":"0.1"}})"),
            Steps());
  EXPECT_EQ(continued_warmup_steps_of_plan(given, ""), Steps());  // no plan yet
}

TEST(Warmup, APlanHoldsWhatIsGiven) {
  SweepOptions options;
  EXPECT_EQ(planned_warmup(options), "0.1");
  options.warmup = parse_warmup("0.2");
  EXPECT_EQ(planned_warmup(options), "0.2");
  options.warmup = parse_warmup("20");
  EXPECT_EQ(planned_warmup(options), "20");
  options.warmup.reset();
  options.warmup_steps = 20;
  EXPECT_EQ(planned_warmup(options), 20);
}

}  // namespace
}  // namespace bipo
