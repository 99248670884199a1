// Verdicts on records whose norms and differences are exact: where all pairs differ by the same,
// every resample has that mean.
#include "experiments/training/run_verdict.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/support/errors.hpp"

namespace bipo {
namespace {

using Logps = std::vector<double>;

using testing::expect_parts;

VerdictSettings settings() {
  VerdictSettings s;
  s.layers = {1};
  s.residual_norms = {100};
  s.objective.beta = 0.5;
  s.lr = 5e-4;
  s.lr_unit = LrUnit::kAbsolute;
  s.epochs = 3;
  s.warmup_steps = 2;
  s.total_steps = 15;
  return s;
}

// A vector of length 5, and at each of the multipliers the chosen answer's log-probability of the
// pairs; the rejected answer has -10 always.
TrainingRecord record(const std::vector<std::pair<double, Logps>>& chosen) {
  TrainingRecord record;
  record.checkpoint.vector = {3, 4};
  for (const auto& [multiplier, logps] : chosen) {
    for (std::size_t pair = 0; pair < logps.size(); ++pair) {
      record.eval_samples.push_back(
          {15, 2, multiplier, static_cast<std::int64_t>(pair), logps[pair], -10});
    }
  }
  return record;
}

std::string verdict(const std::vector<std::pair<double, Logps>>& chosen,
                    const VerdictSettings& by = settings()) {
  return judge_run(record(chosen), by);
}

bool begins_with(const std::string& text, const char* beginning) {
  return text.starts_with(beginning);
}

// By tokens: -6 / 2 and -4 / 2 of the chosen answers of two tokens; the rejected ones do not
// change.
TEST(RunVerdict, OfMarginsByTokens) {
  VerdictSettings by_tokens = settings();
  by_tokens.objective.reduction = Reduction::kMean;
  by_tokens.tokens = {{2, 5}, {2, 5}, {2, 5}};
  EXPECT_EQ(verdict({{-1, {-6, -7, -8}}, {1, {-4, -5, -6}}}, by_tokens),
            "steers: the vector's norm is 5 % of the residual stream's, the held-out margins at "
            "+1v and -1v differ by +0.5 nats (95 % interval +0.5 to +0.5, 3 pairs)");
}

// Margins of beta = 0.5 times 2 nats.
TEST(RunVerdict, OfMarginsThatAreApart) {
  EXPECT_EQ(verdict({{-1, {-6, -7, -8}}, {0, {-5, -5, -5}}, {1, {-4, -5, -6}}}),
            "steers: the vector's norm is 5 % of the residual stream's, the held-out margins at "
            "+1v and -1v differ by +1 nats (95 % interval +1 to +1, 3 pairs)");
}

TEST(RunVerdict, OfAShortVector) {
  VerdictSettings by = settings();
  by.residual_norms = {1001};
  const std::string text = verdict({{-1, {-6, -7}}, {1, {-4, -5}}}, by);
  EXPECT_TRUE(begins_with(text, "weak: the vector's norm is 0.5 % of the residual stream's, below"))
      << text;
  expect_parts(text, {"higher --lr (now 0.0005", "--lr-unit residual", "more --epochs (now 3)"});
  EXPECT_EQ(text.find("warm"), std::string::npos) << text;
  by.residual_norms = {1000};  // exactly 0.5 %
  EXPECT_TRUE(begins_with(verdict({{-1, {-6, -7}}, {1, {-4, -5}}}, by), "steers: "));
}

// Vectors of lengths 3 and 4; all layers' together have 5, which is above every threshold.
TEST(RunVerdict, EachLayersVectorIsHeldAgainstTheStreamThere) {
  VerdictSettings by = settings();
  by.layers = {10, 15};
  by.residual_norms = {100, 200};
  EXPECT_TRUE(begins_with(verdict({}, by),
                          "untested: the norms of the vectors of layers 10, 15 are 3, 2 % of the "
                          "residual stream's there, "));
  by.residual_norms = {100, 1000};
  EXPECT_TRUE(begins_with(verdict({{-1, {-6, -7}}, {1, {-4, -5}}}, by),
                          "weak: the norm of layer 15's vector is 0.4 % of the residual stream's "
                          "there, below 0.5 %; train again with a higher --lr"));
  by.residual_norms = {1000, 1000};
  EXPECT_TRUE(begins_with(verdict({}, by),
                          "weak: the norms of the vectors of layers 10, 15 are 0.3, 0.4 % of the "
                          "residual stream's there, below 0.5 %; "));
}

TEST(RunVerdict, AdviceFitsTheSettings) {
  VerdictSettings by = settings();
  by.residual_norms = {1e6};
  by.lr_unit = LrUnit::kResidual;
  by.warmup_steps = 100;
  const std::string text = verdict({}, by);
  EXPECT_EQ(text.find("--lr-unit"), std::string::npos) << text;
  expect_parts(text, {"in residual units", "a shorter --warmup (now 100 of 15 steps)"});
}

// Differences of -2, 2, -2, 2: resamples lie on both sides of 0.
TEST(RunVerdict, OfMarginsThatAreNotApart) {
  const std::string text = verdict({{-1, {-5, -7, -5, -7}}, {1, {-7, -5, -7, -5}}});
  EXPECT_TRUE(begins_with(
      text,
      "weak: the held-out margins at +1v and -1v differ by +0 nats (95 % interval -1 to +1, "
      "4 pairs), which may be chance; train again"))
      << text;
}

// The two multipliers by themselves overlap widely; pair by pair they are apart.
TEST(RunVerdict, PairsAreComparedWithThemselves) {
  EXPECT_TRUE(begins_with(verdict({{-1, {-1, -50, -100}}, {1, {-0.5, -49.5, -99.5}}}), "steers: "));
}

TEST(RunVerdict, OfTheWrongDirection) {
  const std::string text = verdict({{-1, {-4, -5}}, {1, {-6, -7}}});
  EXPECT_TRUE(begins_with(text, "weak: the held-out margins at +1v and -1v differ by -1 nats"))
      << text;
  expect_parts(text, {"the wrong way", "bipo-dist data"});
  EXPECT_EQ(text.find("--lr"), std::string::npos) << text;
}

TEST(RunVerdict, BothFaultsAreNamed) {
  VerdictSettings by = settings();
  by.residual_norms = {1e6};
  expect_parts(verdict({{-1, {-5, -5}}, {1, {-5, -5}}}, by),
               {"weak: the vector's norm is 0.0005 %", ", and the held-out margins", "+0 nats"});
}

TEST(RunVerdict, WithoutTheOtherSideNothingIsTested) {
  const char* untested =
      "untested: the vector's norm is 5 % of the residual stream's, no held-out pairs at -v and +v "
      "say whether it steers";
  EXPECT_EQ(verdict({}), untested);
  EXPECT_EQ(verdict({{0, {-5, -5}}, {1, {-5, -5}}}), untested);
  EXPECT_EQ(verdict({{-1, {-6}}, {1, {-4}}}), untested);  // one pair has no spread
}

TEST(RunVerdict, OtherMultipliersServeWhereOneIsMissing) {
  expect_parts(
      verdict({{-2, {-6, -7}}, {-0.5, {-5, -5}}, {0.5, {-5, -5}}, {2, {-4, -5}}, {3, {-1, -1}}}),
      {"steers: ", "+2v and -2v"});
}

}  // namespace
}  // namespace bipo
